#!/usr/bin/env bash
# Runs one command as root under another kernel: `scripts/vm.sh COMMAND [ARG...]`, with the command's exit status (124: it
# took too long, 125: the machine did not come so far). Debian's cloud kernel, which has WireGuard, in qemu: with KVM where
# that works, else emulated, which is many times slower.
#
# The command finds this machine's root file system (that alone, not what is mounted into it) by the same paths, and may
# write to it: what it writes lives in the memory of the machine and is gone with it. It has the environment's PATH, HOME,
# LANG, CI, RUST_* and CAUSEWAY_*, the present directory, no input, and no network but what it makes.
#
#   VM_TIMEOUT=900   seconds until the machine is ended
#   VM_MEMORY=4      GiB
#   VM_KERNEL=...    a package with a kernel or with a dependency on one; SUITE/PACKAGE if it is of another suite of Debian,
#                    such as trixie-backports/linux-image-cloud-amd64
#   VM_CONSOLE=file  keeps what the kernel said
set -euo pipefail
kernel=${VM_KERNEL:-linux-image-6.12-cloud-amd64}
cache=$(realpath -m "$(dirname "$0")/../target/vm")
there=$cache/${kernel//\//_}
box=$cache/busybox/bin/busybox
run='' virtiofsd='' reader='' qemu=''

die() { printf 'vm: %s\n' "$*" >&2; exit 125; }

# apt_of SUITE TOOL ARG...: package lists of another suite live apart from this machine's.
apt_of() {
  local lists=$cache/apt/$1 suite=$1 tool=$2 uri
  shift 2
  if [ "$suite" = . ]; then
    "$tool" "$@"
    return
  fi
  local options=(-o "Dir::Etc::sourcelist=$lists.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$lists"
    -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o APT::Sandbox::User=root)
  if [ ! -e "$lists.list" ]; then
    mkdir -p "$lists/partial"
    # shellcheck disable=SC2016 # apt's variable, not the shell's
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$') || return
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" >"$lists.list"
    apt-get "${options[@]}" update -qq || { rm "$lists.list"; return 1; }
  fi
  "$tool" "${options[@]}" "$@"
}

# Package lists of a fresh machine are empty, and those of an old one name files that are gone.
refresh() {
  if [ "$1" = . ]; then apt-get update -qq; else rm -f "$cache/apt/$1.list"; fi
}

# extract SUITE TO PACKAGE...: unpacks them there. Nothing of them is installed.
extract() {
  local suite=$1 to=$2 deb
  shift 2
  rm -rf "$to" "$to.deb"
  mkdir -p "$to.deb"
  (
    cd "$to.deb"
    fetch=(apt_of "$suite" apt-get download -qq -o APT::Sandbox::User=root "$@")
    "${fetch[@]}" 2>/dev/null || { refresh "$suite" && "${fetch[@]}"; }
  ) || die "could not fetch $*"
  for deb in "$to.deb"/*.deb; do dpkg-deb -x "$deb" "$to"; done
  rm -rf "$to.deb"
}

# parts SUITE PACKAGE: a package and those that it depends on, as far as they are a kernel of some version. It is one
# package or, since 7.3, three.
parts() {
  local part
  echo "$2"
  for part in $(apt_of "$1" apt-cache show --no-all-versions "$2" 2>/dev/null | grep -m1 ^Depends: |
    grep -oE 'linux-(image|binary|modules)-[0-9][^ ,]*'); do
    parts "$1" "$part"
  done
}

fetch_kernel() {
  local suite=. package=$kernel root all
  case $kernel in */*) suite=${kernel%%/*} package=${kernel#*/} ;; esac
  apt_of "$suite" apt-cache show "$package" >/dev/null 2>&1 || refresh "$suite"
  read -ra all <<<"$(parts "$suite" "$package" | sort -u | tr '\n' ' ')"
  printf 'vm: fetching, once: %s\n' "${all[*]}" >&2
  rm -rf "$there"
  extract "$suite" "$there.part" "${all[@]}"
  # What another program loads need not be unpacked each time.
  find "$there.part" -name '*.ko.xz' -print0 | xargs -0 -r -P 2 -n 32 xz -d
  root=$there.part/usr
  [ -d "$root/lib/modules" ] || root=$there.part
  mv "$root/lib/modules" "$there.part/modules"
  find "$there.part/"*/ -type f -name 'vmlinuz*' -exec mv {} "$there.part/vmlinuz" \;
  modules_index "$there.part/modules"
  initramfs "$there.part"
  mv "$there.part" "$there"
}

# busybox's own, for this machine may have no kmod: it wants the tree where the kernel would look for it.
modules_index() {
  local version
  version=$(basename "$1"/*)
  mkdir -p "$1/root/lib" && ln -s "$1" "$1/root/lib/modules"
  "$box" depmod -b "$1/root" "$version"
  rm -r "$1/root"
}

initramfs() {
  mkdir "$1/first"
  cp "$box" "$1/first/busybox"
  find "$1/modules" -name overlay.ko -exec cp {} "$1/first/" \;
  cat >"$1/first/init" <<'INIT'
#!/busybox sh
b=/busybox
$b mkdir -p /dev /proc /lower /upper /new
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
[ ! -e /overlay.ko ] || $b insmod /overlay.ko
$b mount -t virtiofs -o ro root /lower
$b mount -t tmpfs -o size=75% upper /upper
$b mkdir /upper/files /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /new
$b mount --move /dev /new/dev
$b mount --move /proc /new/proc
exec $b switch_root /new /bin/bash "$run/init"
INIT
  chmod +x "$1/first/init"
  (cd "$1/first" && find . | "$box" cpio -o -H newc 2>/dev/null | gzip -1) >"$1/initramfs"
  rm -r "$1/first"
}

fetch() {
  [ "$(id -u)" = 0 ] || die "needs root: to fetch, and to show the whole file system"
  mkdir -p "$cache/apt"
  exec 9>"$cache/lock"
  # One at a time; whoever waits finds everything there.
  flock 9
  if ! command -v qemu-system-x86_64 >/dev/null || [ ! -x /usr/lib/qemu/virtiofsd ]; then
    echo "vm: installing qemu-system-x86, once" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-system-x86 >/dev/null
  fi
  [ -x "$box" ] || extract . "$cache/busybox" busybox-static
  [ -e "$there/initramfs" ] || fetch_kernel
  exec 9>&-
}

# What the first process does once the root is whole. The command's output and status leave by virtio ports, so that the
# kernel's words do not mix with them.
second_program() {
  cat <<'INIT'
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs run /run
mkdir -p /dev/shm /dev/pts && mount -t tmpfs shm /dev/shm && mount -t devpts pts /dev/pts
ln -sfn /proc/self/fd /dev/fd
mkdir -p "/lib/modules/$(uname -r)" && mount --bind "$modules/$(uname -r)" "/lib/modules/$(uname -r)"
ln -s "$box" /run/modprobe && echo /run/modprobe >/proc/sys/kernel/modprobe
command -v modprobe >/dev/null || for tool in modprobe lsmod rmmod; do ln -s "$box" "/usr/local/sbin/$tool"; done
"$box" hostname vm
"$box" ip link set lo up
port() { grep -lx "$1" /sys/class/virtio-ports/*/name | sed 's|.*ports/|/dev/|; s|/name||'; }
out=$(port out) status=$(port status)
(. "$run/command") >"$out" 2>&1 </dev/null
echo $? >"$status"
sync
echo b >/proc/sysrq-trigger
sleep 60
INIT
}

prepare() {
  run=$(mktemp -d "$cache/run.XXXXXX")
  mkdir "$run/root"
  mkfifo "$run/out"
  { printf 'run=%q modules=%q box=%q\n' "$run" "$there/modules" "$box"; second_program; } >"$run/init"
  {
    printf 'cd %q && exec env -i' "$PWD"
    env -0 | while IFS= read -r -d '' line; do
      case ${line%%=*} in PATH | HOME | LANG | CI | RUST_* | CAUSEWAY_*) printf ' %q' "$line" ;; esac
    done
    printf ' %q' "$@"
    echo
  } >"$run/command"
}

# Nothing of it stays: no process, no file, no mount.
# shellcheck disable=SC2317,SC2329 # called by the trap
clear_up() {
  local pid
  for pid in $qemu $reader $virtiofsd; do kill "$pid" 2>/dev/null || true; done
  wait
  [ -z "$run" ] || { [ -z "${VM_CONSOLE:-}" ] || cp "$run/console" "$VM_CONSOLE" 2>/dev/null || true; rm -rf "$run"; }
}

# In mounts of its own, so that the machine cannot write even if it would.
serve() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  exec unshare --mount sh -ec 'mount --bind / "$1/root"; mount -o remount,bind,ro "$1/root"
    exec /usr/lib/qemu/virtiofsd --socket-path="$1/fs" -o source="$1/root" -o sandbox=chroot -o cache=always \
      --thread-pool-size=4' sh "$run" >"$run/virtiofsd" 2>&1
}

machine() {
  local gib=${VM_MEMORY:-4}G accel=tcg,thread=multi,tb-size=512
  # The device alone says nothing: without the processor's help a kernel gets as far as its first unusual instruction.
  if [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then accel=kvm; fi
  exec timeout -k 5 "${VM_TIMEOUT:-900}" qemu-system-x86_64 -nodefaults -no-user-config -nographic -no-reboot \
    -accel "$accel" -machine q35 -cpu max -smp 2 -m "$gib" \
    -object "memory-backend-memfd,id=mem,size=$gib,share=on" -numa node,memdev=mem \
    -chardev "socket,id=fs,path=$run/fs" -device vhost-user-fs-pci,chardev=fs,tag=root \
    -device virtio-serial-pci -device virtio-rng-pci \
    -chardev "file,id=out,path=$run/out" -device virtserialport,chardev=out,name=out \
    -chardev "file,id=status,path=$run/status" -device virtserialport,chardev=status,name=status \
    -chardev "file,id=console,path=$run/console" -device isa-serial,chardev=console \
    -kernel "$there/vmlinuz" -initrd "$there/initramfs" \
    -append "console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on run=$run"
}

fetch
[ $# -gt 0 ] || die "which command?"
prepare "$@"
trap clear_up EXIT
trap 'exit 143' INT TERM HUP
serve &
virtiofsd=$!
for ((i = 0; i < 100; i++)); do [ ! -S "$run/fs" ] || break; sleep 0.1; done
[ -S "$run/fs" ] || { tail -n 20 "$run/virtiofsd" >&2; die "virtiofsd does not serve"; }
# Held open at this end too: a machine that never starts must not leave the reader waiting for its words.
exec 8<>"$run/out"
cat "$run/out" 8>&- &
reader=$!
# Waited for, so that a signal ends it at once.
machine </dev/null >"$run/qemu" 2>&1 8>&- &
qemu=$!
rc=0
wait "$qemu" || rc=$?
qemu=
exec 8>&-
wait "$reader" || true
reader=
[ "$rc" != 124 ] || { tail -n 20 "$run/console" >&2; printf 'vm: not done within %s s\n' "${VM_TIMEOUT:-900}" >&2; exit 124; }
if [ ! -s "$run/status" ]; then
  tail -n 20 "$run/qemu" "$run/virtiofsd" "$run/console" >&2
  die "the machine ended without a word"
fi
exit "$(cat "$run/status")"
