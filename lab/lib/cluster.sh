# shellcheck shell=bash
# up, down, status.

# up [--nodes N] [--cni fairlead|bridge|none] [--kube-proxy[=iptables|nftables]] [--kube-proxy-pods] [--dual-stack]
up() {
	local nodes=3 cni=fairlead proxy=0 pods=0 dual=0 mode=iptables t0=$EPOCHREALTIME m n
	while [ $# -gt 0 ]; do
		case $1 in
		--nodes=*) nodes=${1#*=} ;;
		--nodes) nodes=${2:-}; shift ;;
		--cni=*) cni=${1#*=} ;;
		--cni) cni=${2:-}; shift ;;
		--kube-proxy) proxy=1 ;;
		--kube-proxy=*) proxy=1 mode=${1#*=} ;;
		--kube-proxy-pods) proxy=1 pods=1 ;;
		--dual-stack) dual=1 ;;
		*) die "up does not know '$1'." "It takes --nodes N, --cni fairlead|bridge|none, --kube-proxy[=iptables|nftables], --kube-proxy-pods and --dual-stack." "Run: $SELF help" ;;
		esac
		shift
	done
	[[ $nodes =~ ^[1-9][0-9]?$ && $nodes -le $MAX_NODES ]] || die "'$nodes' is not a number of nodes." "A lab has 1 to $MAX_NODES nodes." "Run: $SELF up --nodes 3"
	case $cni in fairlead|bridge|none) ;; *) die "There is no CNI mode '$cni'." "The lab knows fairlead (nodes wait for the agent), bridge (a plain bridge CNI) and none." "Run: $SELF up --cni fairlead" ;; esac

	case $mode in iptables|nftables) ;; *) die "There is no kube-proxy mode '$mode'." "The lab knows iptables and nftables." "Run: $SELF up --cni bridge --kube-proxy=nftables" ;; esac

	[ "$cni $dual" != "bridge 1" ] || die "The bridge CNI of the lab has IPv4 only." "Nothing would give pods addresses of IPv6." "Run: $SELF up --cni fairlead --dual-stack"

	[ "$pods" = 0 ] || mode=$mode-pods
	if up_already "$nodes" "$cni" "$proxy" "$mode" "$dual"; then return; fi
	NODES=$nodes CNI=$cni PROXY=$proxy PROXY_MODE=$mode DUAL=$dual MODE=$(cgroup_mode)
	note "up --nodes $NODES --cni $CNI$([ "$PROXY" = 0 ] || echo " --kube-proxy=$PROXY_MODE")$([ "$DUAL" = 0 ] || echo " --dual-stack")"
	build_all
	t0=$EPOCHREALTIME
	prepare
	# From here on this host has processes of the lab.
	for m in $(machines); do spawn "$m"; done
	for m in $(machines); do until_ok 30 init_pid "$m" || die "Machine $m did not start." "$(tail -n 1 "$RUN/$m/init.log")" "See $RUN/$m/init.log"; done
	wire
	start_gate
	write_access
	until_ok 120 api_ready || die "The API server did not become ready." "$(grep -E '^E|panic|fatal' "$RUN/cp/apiserver.log" 2>/dev/null | tail -n 1)" "See $RUN/cp/apiserver.log and $RUN/cp/etcd.log"
	say "API server ready after $(since "$t0")"
	[ "$PROXY" = 0 ] || [ "${PROXY_MODE%-pods}" = "$PROXY_MODE" ] || apply_kube_proxy
	[ "$CNI" = none ] || apply_coredns
	for n in $(seq "$NODES"); do
		until_ok 120 on "node$n" curl -sf http://127.0.0.1:10248/healthz || die "The kubelet of node$n did not become healthy." "$(grep -E '^E' "$RUN/node$n/kubelet.log" 2>/dev/null | tail -n 1)" "See $RUN/node$n/kubelet.log and $RUN/node$n/containerd.log"
	done
	if [ "$CNI" = bridge ]; then
		inner_kubectl wait --for=condition=Ready node --all --timeout=120s >/dev/null || die "The nodes did not become Ready." "See the conditions: $SELF kubectl describe nodes" "See $RUN/node*/kubelet.log"
		say "all nodes Ready after $(since "$t0")"
		inner_kubectl -n kube-system rollout status deployment/coredns --timeout=120s >/dev/null || die "CoreDNS did not become available." "See: $SELF kubectl -n kube-system describe pods" "Look at $RUN/node*/containerd.log"
		inner_kubectl wait --for=create serviceaccount/default --timeout=60s >/dev/null
		say "CoreDNS available after $(since "$t0")"
	fi
	touch "$RUN/complete"
	[ "$CNI" != fairlead ] || say "kubelets healthy after $(since "$t0"); nodes become Ready when the agent is installed"
	[ "$CNI" != none ] || say "kubelets healthy after $(since "$t0"); nodes become Ready when a CNI is installed"
	say "kubeconfig: $RUN/kubeconfig  ssh: ssh -F $RUN/ssh_config node1"
}

# up_already NODES CNI PROXY PROXY-MODE DUAL: whether that very lab runs. Another one that runs
# is an error; remains of one are removed.
up_already() {
	local m whole=1
	read_settings
	if [ -f "$RUN/complete" ]; then
		for m in $(machines); do alive "$m" || whole=0; done
		if [ $whole = 1 ]; then
			[ "$NODES $CNI $(proxy_state "$PROXY" "$PROXY_MODE") $DUAL" = "$1 $2 $(proxy_state "$3" "$4") $5" ] || die "A lab with other settings is up." "It has $NODES nodes, cni $CNI, kube-proxy $(proxy_state "$PROXY" "$PROXY_MODE"), dual stack $DUAL; asked for: $1 nodes, cni $2, kube-proxy $(proxy_state "$3" "$4"), dual stack $5." "Run: $SELF down, then up again; or use it as it is."
			gate_answers || { say "the loopback ports had gone; opening them again"; start_gate; }
			until_ok 30 api_ready || die "The lab runs but its API server does not answer." "See $RUN/cp/apiserver.log" "Run: $SELF down, then up"
			say "already up ($NODES nodes, cni $CNI)"
			return 0
		fi
	fi
	if [ -e "$RUN" ] || [ -n "$(groups)" ]; then
		say "removing what an interrupted lab left"
		down_quietly
	fi
	return 1
}

# proxy_state PROXY MODE: off, or its mode, with -pods where a DaemonSet runs it
proxy_state() { if [ "$1" = 1 ]; then echo "$2"; else echo off; fi; }

# prepare: the run directory with all that machines read when they start
prepare() {
	local n
	mkdir -p "$RUN"; chmod 755 "$RUN"
	for n in NODES CNI PROXY PROXY_MODE DUAL MODE HYPERKUBE KUBETOOLS TOOLS COREDNS TEMPLATE; do printf '%s=%q\n' "$n" "${!n}"; done > "$RUN/settings"
	make_pki
	make_ssh_keys
	for n in $(seq "$NODES"); do mkdir -p "$RUN/node$n"; clone_template "$RUN/node$n/containerd"; done
}

# apply_coredns: from the manifest. Without any service routing (bridge and no
# kube-proxy) CoreDNS is told the API server's own address.
apply_coredns() {
	if [ "$CNI" = bridge ] && [ "$PROXY" = 0 ]; then
		sed "s|# lab: env|env: [{name: KUBERNETES_SERVICE_HOST, value: \"$NET.10\"}, {name: KUBERNETES_SERVICE_PORT, value: \"6443\"}]|" "$LAB/manifests/coredns.yaml"
	else
		cat "$LAB/manifests/coredns.yaml"
	fi | inner_kubectl apply -f - >/dev/null || die "CoreDNS could not be deployed." "kubectl refused its manifest (see above)." "Run: $SELF down, then up"
}

# apply_kube_proxy: as a DaemonSet, from the manifest
apply_kube_proxy() {
	sed "s|@MODE@|${PROXY_MODE%-pods}|; s|@PODS@|$POD.0.0/16|; s|@SERVER@|$NET.10|; s|@HYPERKUBE@|$HYPERKUBE|" "$LAB/manifests/kube-proxy.yaml" |
		inner_kubectl apply -f - >/dev/null || die "kube-proxy could not be deployed." "kubectl refused its manifest (see above)." "Run: $SELF down, then up"
}

down() {
	if [ ! -e "$RUN" ] && [ -z "$(groups)" ]; then say "not up"; return; fi
	local t0=$EPOCHREALTIME
	note down
	down_quietly
	say "down in $(since "$t0")"
}

# down_quietly: every process in the lab's groups, then its groups, then its files
down_quietly() {
	rm -f "$RUN/complete"
	kill_groups
	# Mounts and interfaces end with the last process of their namespace, which
	# the kernel tears down after that process has gone: a file may be busy yet.
	until_ok 20 rm -rf "$RUN" || die "The run directory cannot be removed." "$(rm -rf "$RUN" 2>&1 | head -n 1)" "See what uses it: fuser -vm $RUN"
}

status() {
	local json=0 m state=down n
	[ "${1:-}" != -o ] || { [ "${2:-}" = json ] || die "There is no output format '${2:-}'." "status knows json." "Run: $SELF status -o json"; json=1; }
	read_settings
	if [ -f "$RUN/complete" ]; then state=up; for m in $(machines); do alive "$m" || state=broken; done
	elif [ -e "$RUN" ] || [ -n "$(groups)" ]; then state=broken; fi
	if [ $json = 1 ]; then status_json "$state"; return; fi
	echo "lab: $state"
	[ $state != down ] || return 0
	[ $state = up ] || echo "  a part of it does not run; 'up' starts anew, 'down' removes it"
	echo "$NODES nodes, cni $CNI, kube-proxy $(proxy_state "$PROXY" "$PROXY_MODE")"
	printf '%-9s %-15s %8s %10s %9s\n' MACHINE ADDRESS PID PROCESSES MEMORY
	for m in $(machines); do
		if alive "$m"; then printf '%-9s %-15s %8s %10s %5s MiB\n' "$m" "$(address "$m")" "$(init_pid "$m")" "$(processes "$m")" "$(($(memory "$m") / 1048576))"
		else printf '%-9s %-15s %8s\n' "$m" "$(address "$m")" dead; fi
	done
	[ $state = up ] || return 0
	echo "kubeconfig $RUN/kubeconfig"
	echo "ssh_config $RUN/ssh_config"
	n=$HYPERKUBE/kubectl
	KUBECONFIG=$RUN/kubeconfig KUBECACHEDIR=$RUN/kube-cache "$n" get nodes -o wide || true
	KUBECONFIG=$RUN/kubeconfig KUBECACHEDIR=$RUN/kube-cache "$n" get pods -A -o wide || true
}

# group MACHINE HIERARCHY: its directory
group() { awk -v h="$2" '$1 == h {print $2}' "$RUN/$1/cgroups"; }
processes() { find "$(group "$1" unified)" -name cgroup.procs -exec cat {} + 2>/dev/null | wc -l; }
# memory MACHINE: bytes of resident memory, without page cache
memory() {
	local d; d=$(group "$1" memory)
	if [ -n "$d" ]; then awk '$1 == "total_rss" {print $2}' "$d/memory.stat"
	else awk '$1 == "anon" {a = $2} END {print a + 0}' "$(group "$1" unified)/memory.stat" 2>/dev/null || echo 0; fi
}

# status_json STATE: for programs. Paths and ports are there when the lab is up.
status_json() {
	local m sep='' proxy=false
	[ "$PROXY" = 0 ] || proxy=true
	printf '{"state":"%s"' "$1"
	if [ "$1" != down ]; then
		printf ',"nodes":%d,"cni":"%s","kubeProxy":%s' "$NODES" "$CNI" "$proxy"
		[ "$1" != up ] || printf ',"server":"https://127.0.0.1:%s","kubeconfig":"%s","context":"fairlead-lab","sshConfig":"%s","knownHosts":"%s","identityFile":"%s","kubectl":"%s"' \
			"$(port api)" "$RUN/kubeconfig" "$RUN/ssh_config" "$RUN/known_hosts" "$RUN/ssh/id_ed25519" "$HYPERKUBE/kubectl"
		printf ',"run":"%s","group":"%s","machines":[' "$RUN" "$GROUP"
		for m in $(machines); do
			printf '%s{"name":"%s","address":"%s"' "$sep" "$m" "$(address "$m")"; sep=,
			if alive "$m"; then printf ',"alive":true,"pid":%d,"sshPort":%d,"processes":%d,"memory":%d}' "$(init_pid "$m")" "$(port "$m")" "$(processes "$m")" "$(memory "$m")"
			else printf ',"alive":false}'; fi
		done
		printf ']'
	fi
	printf '}\n'
}
