#!/usr/bin/env bash
# demo.sh [LAB]: the main job on real input. Brings a lab up, deploys, and shows what a person wants to see.
# LAB is a topology: two-clusters (one Service of two clusters) or one-rack (BGP and load balancing in one cluster).
# Every wait is for a condition, with a limit; the lab stays up at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
lab=${1:-two-clusters}
bin=$PWD/target/debug
dir=topologies/$lab
state=/run/causeway-lab/$lab
started=$SECONDS

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
k() { kubectl --kubeconfig "$state/kubeconfig" "$@"; }
vty() { "$bin/causeway-lab" vtysh "$lab" "$1" -- -c "$2"; }
on() { local host=$1; shift; "$bin/causeway-lab" exec "$lab" "$host" -- "$@"; }
agent() { local node=$1; shift; "$bin/causeway" --socket "$state/$node/agent.sock" "$@"; }

# until SECONDS WHAT COMMAND...: runs the command until it succeeds.
until_ok() {
  local limit=$1 what=$2 deadline
  shift 2
  deadline=$((SECONDS + limit))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || die "$what: not within $limit s; look at $state/logs"
    read -r -t 0.1 <> <(:) || true
  done
}

bring_up() {
  title "$1"
  "$bin/causeway-lab" drawing "$dir"
  title "Bringing it up"
  "$bin/causeway-lab" up "$dir" --name "$lab" "${@:2}"
  note "bring-up took $((SECONDS - started)) s"
}

# The addresses of a LoadBalancer Service: arguments for kubectl.
has_address() { [ -n "$(k get service "$@" -o jsonpath='{.status.loadBalancer.ingress[0].ip}')" ]; }

one_rack() {
  bring_up "The rack"

  title "Deploying: 6 pods, a ClusterIP and two LoadBalancer Services"
  k apply -f "$dir/manifests"
  k rollout status deployment/echo --timeout=60s
  for service in echo-cluster echo-local; do
    until_ok 30 "service $service gets an address" has_address "$service"
  done
  k get nodes,pods,services -o wide

  # Addresses of a Service, by family.
  lb() { k get service "$1" -o json | jq -r --arg sep "$2" '.status.loadBalancer.ingress[].ip | select(contains($sep))' | head -n 1; }
  cip() { k get service "$1" -o json | jq -r --arg sep "$2" '.spec.clusterIPs[] | select(contains($sep))' | head -n 1; }
  vip4=$(lb echo-cluster .) vip6=$(lb echo-cluster :)
  local4=$(lb echo-local .) local6=$(lb echo-local :)

  known() { vty "$1" "show ip route $vip4 json" | jq -e 'length > 0' && vty "$1" "show ipv6 route $vip6 json" | jq -e 'length > 0' &&
    vty "$1" "show ip route $local4 json" | jq -e 'length > 0' && vty "$1" "show ipv6 route $local6 json" | jq -e 'length > 0'; }
  for tor in tor1 tor2; do until_ok 30 "$tor learns $vip4, $vip6, $local4 and $local6" known "$tor"; done

  title "BGP sessions, as the agent on n1 sees them"
  agent n1 bgp peers
  title "BGP sessions, as FRR on tor1 sees them"
  vty tor1 'show bgp summary'
  title "Routes at tor1, with their ECMP next hops"
  vty tor1 'show ip route bgp'
  vty tor1 'show ipv6 route bgp'

  title "200 requests from the outside client to $vip4 (externalTrafficPolicy: Cluster)"
  on client "$bin/causeway-echo" get "http://$vip4/" --count 200 --concurrency 8
  title "200 requests from the outside client to [$vip6]"
  on client "$bin/causeway-echo" get "http://[$vip6]/" --count 200 --concurrency 8
  title "20 requests to $local4 (externalTrafficPolicy: Local: the pods see the client's own address)"
  on client "$bin/causeway-echo" get "http://$local4/" --count 20

  pods=($(k get pods -l app=echo -o jsonpath='{range .items[*]}{.metadata.name}{"\n"}{end}'))
  node_of() { k get pod "$1" -o jsonpath='{.spec.nodeName}'; }
  from=${pods[0]}
  to=$from
  for pod in "${pods[@]}"; do [ "$(node_of "$pod")" = "$(node_of "$from")" ] || to=$pod; done
  to4=$(k get pod "$to" -o jsonpath='{.status.podIPs[0].ip}') to6=$(k get pod "$to" -o jsonpath='{.status.podIPs[1].ip}')
  title "Pod to pod across nodes: $from on $(node_of "$from") to $to on $(node_of "$to")"
  on "$from" "$bin/causeway-echo" get "http://$to4:8080/" --count 5
  on "$from" "$bin/causeway-echo" get "http://[$to6]:8080/" --count 5
  title "Pod to ClusterIP"
  on "$from" "$bin/causeway-echo" get "http://$(cip echo .)/" --count 30
  on "$from" "$bin/causeway-echo" get "http://[$(cip echo :)]/" --count 30

  title "The rack is up. What to try next"
  cat <<TXT
  export KUBECONFIG=$state/kubeconfig
  kubectl get pods -o wide;  kubectl scale deployment echo --replicas=2
  target/debug/causeway --socket $state/n1/agent.sock status
  target/debug/causeway --socket $state/n1/agent.sock service list
  target/debug/causeway-lab vtysh $lab tor1 -- -c 'show bgp ipv4 unicast'
  target/debug/causeway-lab exec $lab client -- target/debug/causeway-echo get http://$vip4/ --count 20
  make demo-down
TXT
}

# Clusters whose pods answer `web` for the asker in $1, with their counts: "east 12 west 8".
answers() {
  on "asker-$1" "$bin/causeway-echo" get http://web/ --count "$2" --json | jq -r '.clusters | to_entries | map("\(.key) \(.value)") | join(" ")'
}
# answered_by FROM CLUSTERS: exactly these clusters answer 40 requests.
answered_by() {
  local seen
  seen=$(on "asker-$1" "$bin/causeway-echo" get http://web/ --count 40 --concurrency 8 --timeout 2 --json | jq -r 'select(.failed == 0) | .clusters | keys | join(" ")')
  [ "$seen" = "$2" ]
}
show_answers() {
  title "$1"
  until_ok 30 "$1" answered_by "$2" "$3"
  on "asker-$2" "$bin/causeway-echo" get http://web/ --count 100
}

# What 100 requests from east to west look like, in the asking pod and on all cables of east's ToRs.
show_wire() {
  local dir host pids=()
  title "The same requests, in the pod and on the cables between the nodes"
  dir=$(mktemp -d)
  for host in asker-east tor1 tor2; do
    # No function: $! must be tcpdump itself, which this program becomes.
    "$bin/causeway-lab" exec "$lab" "$host" -- tcpdump -i any -U -w "$dir/$host" 2>"$dir/$host.log" &
    pids+=($!)
    until_ok 10 "tcpdump listens in $host" grep -q 'listening on' "$dir/$host.log"
  done
  on asker-east "$bin/causeway-echo" get http://web/ --count 100
  kill -INT "${pids[@]}"
  wait "${pids[@]}" || true
  note "in the pod:  $(grep -ac 'HTTP/1' "$dir/asker-east") lines of HTTP in plaintext"
  note "on the cables: $(cat "$dir/tor1" "$dir/tor2" | grep -ac 'HTTP/1' || true) lines of HTTP; WireGuard packets, as one looks:"
  tcpdump -nn -x -c 1 -r "$dir/tor1" 'udp port 51871 and greater 200' 2>/dev/null | head -n 7 ||
    tcpdump -nn -x -c 1 -r "$dir/tor2" 'udp port 51871 and greater 200' 2>/dev/null | head -n 7
  rm -r "$dir"
  agent e1 encrypt status
}

two_clusters() {
  bring_up "The racks: ToRs speak eBGP with each other, nothing else connects the clusters" \
    --set cluster.east.encryption=wireguard --set cluster.west.encryption=wireguard

  title "What tor1 in east's rack knows of west's pods and hosts: plain routes, no overlay"
  vty tor1 'show ip route bgp' | grep -E '10\.2\.|10\.0\.1\.|via 172\.18' | head -n 12

  title "Deploying the global Service web in both clusters; east gets no pods of its own"
  for c in east west; do k --context "$c" apply -f "$dir/manifests/web-$c.yaml"; done
  k --context east scale deployment web --replicas=0
  for c in east west; do
    k --context "$c" rollout status deployment/web --timeout=60s
    k --context "$c" wait pod "asker-$c" --for=condition=Ready --timeout=60s
    until_ok 30 "service web gets an address in $c" has_address web --context "$c"
  done
  k --context east get pods,services -o wide
  k --context west get pods,services -o wide

  title "The mesh, as the agent on e1 sees it"
  agent e1 clustermesh status --wait
  for node in e2 w1 w2; do agent "$node" clustermesh status --wait >/dev/null; done
  note "the agents on e2, w1 and w2 say the same"

  show_answers "A pod in east asks http://web/: all answers come from west" east west
  show_wire

  k --context east scale deployment web --replicas=2
  k --context east rollout status deployment/web --timeout=60s
  show_answers "East has pods of its own now: both clusters answer" east "east west"
  vip=$(k --context east get service web -o json | jq -r '.status.loadBalancer.ingress[].ip | select(contains("."))' | head -n 1)
  title "The same from outside, by east's address that BGP announces: $vip"
  on client "$bin/causeway-echo" get "http://$vip/" --count 100

  k --context east annotate --overwrite service web service.cilium.io/affinity=local
  show_answers "With affinity local, east's own pods answer alone" east east
  k --context east annotate service web service.cilium.io/affinity-

  title "West dies and comes back, under a stream of requests from a pod in east"
  until_ok 30 "both clusters answer again" answered_by east "east west"
  stream=$(mktemp)
  # No function: $! must be the stream itself, which this program becomes.
  "$bin/causeway-lab" exec "$lab" asker-east -- "$bin/causeway-echo" stream http://web/ \
    --connections 4 --interval 20 --reconnect --json >"$stream" &
  asking=$!
  cables() { for node in w1 w2; do for tor in tor3 tor4; do "$bin/causeway-lab" link "$lab" "$1" "$node" "$tor"; done; done; }
  dead=$SECONDS
  cables down
  note "the cables of w1 and w2 are cut; west's Kubernetes still calls their pods ready"
  until_ok 30 "east's pods take over" answered_by east east
  note "east's pods have taken over, $((SECONDS - dead)) s after the cut: $(answers east 100)"
  cables up
  until_ok 60 "west's pods serve again" answered_by east "east west"
  note "west's pods serve again: $(answers east 100)"
  kill -TERM "$asking"
  wait "$asking" || true
  jq -r '"the stream: \(.sent) requests, \(.ok) answered, \(.failed) failed, slowest \(.slowest_ms) ms; by cluster: \(.clusters | to_entries | map("\(.key) \(.value)") | join(", "))"' "$stream"
  rm -f "$stream"

  title "The clusters are up. What to try next"
  cat <<TXT
  export KUBECONFIG=$state/kubeconfig    # contexts east and west
  kubectl --context west scale deployment web --replicas=0
  target/debug/causeway --socket $state/e1/agent.sock clustermesh status
  target/debug/causeway --socket $state/e1/agent.sock service list
  target/debug/causeway --socket $state/e1/agent.sock encrypt rotate-key --all
  target/debug/causeway-lab exec $lab asker-east -- target/debug/causeway-echo get http://web/ --count 100
  target/debug/causeway-lab pause $lab etcd-cp-west    # and resume
  target/debug/causeway-lab link $lab down tor1 tor3   # and up
  make demo-down
TXT
}

[ "$(id -u)" = 0 ] || die "the lab makes network namespaces and loads eBPF programs: run as root"
if [ -d "$state" ]; then
  note "a lab named $lab is up already; taking it down first"
  "$bin/causeway-lab" down "$lab"
fi
case "$lab" in
  one-rack) one_rack ;;
  two-clusters) two_clusters ;;
  *) die "no demo is written for $lab; there are two-clusters and one-rack" ;;
esac
note "the whole demo took $((SECONDS - started)) s"
