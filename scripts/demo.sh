#!/usr/bin/env bash
# demo.sh LAB: the main job on real input. Brings one rack up, deploys, and shows what a person wants to see.
# Every wait is for a condition, with a limit; the rack stays up at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
lab=${1:-one-rack}
bin=$PWD/target/debug
dir=topologies/one-rack
state=/run/causeway-lab/$lab
started=$SECONDS

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
k() { kubectl --kubeconfig "$state/kubeconfig" "$@"; }
vty() { "$bin/causeway-lab" vtysh "$lab" "$1" -- -c "$2"; }
on() { local host=$1; shift; "$bin/causeway-lab" exec "$lab" "$host" -- "$@"; }

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

[ "$(id -u)" = 0 ] || die "the lab makes network namespaces and loads eBPF programs: run as root"
if [ -d "$state" ]; then
  note "a lab named $lab is up already; taking it down first"
  "$bin/causeway-lab" down "$lab"
fi

title "The rack"
"$bin/causeway-lab" drawing "$dir"

title "Bringing it up"
"$bin/causeway-lab" up "$dir" --name "$lab"
note "bring-up took $((SECONDS - started)) s"

title "Deploying: 6 pods, a ClusterIP and two LoadBalancer Services"
has_address() { [ -n "$(k get service "$1" -o jsonpath='{.status.loadBalancer.ingress[0].ip}')" ]; }
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
"$bin/causeway" --socket "$state/n1/agent.sock" bgp peers
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
note "the whole demo took $((SECONDS - started)) s"
