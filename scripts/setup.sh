#!/usr/bin/env bash
# Installs what is missing on a Debian 12 machine. Idempotent: a machine that has everything is left alone in a second.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# What a build, the lab and the comparisons in tests need, as "command-or-file package".
needs=(
  "cc gcc" "make make" "git git" "pkg-config pkg-config"
  "/usr/lib/rustlib/bpfel-unknown-none/lib libstd-rust-web-dev-bpf" "/usr/bin/rustc rustc-web" "/usr/bin/cargo cargo-web"
  "/usr/lib/llvm-22/bin/llvm-config llvm-22-dev" "/usr/lib/llvm-22/lib/libPolly.a libpolly-22-dev"
  "/usr/include/zstd.h libzstd-dev" "/usr/include/zlib.h zlib1g-dev"
  "protoc protobuf-compiler" "/usr/include/google/protobuf/empty.proto libprotobuf-dev"
  "ip iproute2" "nft nftables" "iptables iptables" "tcpdump tcpdump" "iperf3 iperf3" "ping iputils-ping" "sysctl procps" "ps procps" "curl curl"
  "/usr/lib/frr/bgpd frr" "bird bird2" "gobgpd gobgpd" "etcd etcd-server" "etcdctl etcd-client" "zstd zstd"
  "wireguard-go wireguard-go" "wg wireguard-tools" "bpftool bpftool" "conntrack conntrack" "jq jq"
  "python3 python3" "nginx nginx-light" "kubectl kubernetes-client" "/usr/lib/cni/bridge containernetworking-plugins"
)

missing=()
for need in "${needs[@]}"; do
  read -r probe package <<<"$need"
  case "$probe" in
    /*) [ -e "$probe" ] || missing+=("$package") ;;
    *) PATH="$PATH:/usr/sbin:/sbin" command -v "$probe" >/dev/null || missing+=("$package") ;;
  esac
done

if [ "${#missing[@]}" -gt 0 ]; then
  [ "$(id -u)" = 0 ] || die "these packages are missing and need root to install: ${missing[*]}"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # No service that a package brings is started: the lab runs its own copies in its own namespaces.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

export PATH="$HOME/.cargo/bin:$PATH"
command -v cargo >/dev/null || die "no cargo in PATH, though the package cargo-web should bring one: apt-get install cargo-web"

# bpf-linker must speak the LLVM of the compiler that builds the programs (rustc-web: LLVM 22).
linker_version=0.13.0
if ! bpf-linker --version 2>/dev/null | grep -q "$linker_version"; then
  say "building bpf-linker $linker_version (two to three minutes, once)"
  LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version "$linker_version" --locked --quiet \
    --no-default-features --features llvm-22 ||
    die "bpf-linker did not build; see the message above"
fi

if ! mountpoint -q /sys/fs/bpf; then
  say "mounting bpffs on /sys/fs/bpf"
  mount -t bpf bpf /sys/fs/bpf || die "cannot mount bpffs on /sys/fs/bpf: run as root"
fi
say "complete"
