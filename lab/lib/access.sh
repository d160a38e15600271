# shellcheck shell=bash
# Ways in from the host: certificates, SSH keys, loopback ports, the files that
# name them.

make_pki() {
	local n args=()
	for n in $(seq "$NODES"); do args+=(-node "node$n=$(address "node$n")"); done
	"$TOOLS/pki" -dir "$RUN/pki" -server "https://$NET.10:6443" \
		-san "$NET.10,$SERVICE_API,127.0.0.1,localhost,kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster.local" "${args[@]}"
}

# make_ssh_keys: one client key for the lab, one host key per machine
make_ssh_keys() {
	local m
	mkdir -p "$RUN/ssh"; chmod 700 "$RUN/ssh"
	ssh-keygen -q -t ed25519 -N '' -C fairlead-lab -f "$RUN/ssh/id_ed25519"
	for m in $(machines); do ssh-keygen -q -t ed25519 -N '' -C "$m" -f "$RUN/ssh/host_$m"; done
}

# start_gate: listen on loopback ports; the same ones again when they are known
start_gate() {
	local m args=()
	args+=("api=$(port api)@$NET.10:6443")
	for m in $(machines); do args+=("$m=$(port "$m")@$(address "$m"):22"); done
	local p; p=$(init_pid router)
	rm -f "$RUN/gate.json.new"
	( enter_cgroups router; close_others; exec setsid "$TOOLS/gate" -pid "$p" -state "$RUN/gate.json" "${args[@]}" </dev/null >"$RUN/gate.log" 2>&1 ) &
	echo $! > "$RUN/gate.pid"
	disown
	until_ok 20 gate_answers || die "The lab's loopback ports could not be opened." "$(tail -n 1 "$RUN/gate.log" 2>/dev/null)" "Free the port it names, or run: $SELF down, then up"
}
gate_alive() { local p; p=$(cat "$RUN/gate.pid" 2>/dev/null) && grep -qsF "$GROUP/" "/proc/$p/cgroup"; }
gate_answers() { gate_alive && [ -n "$(port api)" ] && [[ $(tr '\0' ' ' < "/proc/$(cat "$RUN/gate.pid")/cmdline") = *" -serve "* ]]; }

# port NAME: the loopback port of the API server (api) or of a machine's sshd
port() { [ ! -f "$RUN/gate.json" ] || sed -n "s/^ *\"$1\": \([0-9]*\).*/\1/p" "$RUN/gate.json"; }

write_access() {
	local m p key
	sed "s#server: .*#server: https://127.0.0.1:$(port api)#" "$RUN/pki/admin.kubeconfig" > "$RUN/kubeconfig.new"
	chmod 600 "$RUN/kubeconfig.new"; mv "$RUN/kubeconfig.new" "$RUN/kubeconfig"
	for m in $(machines); do
		key=$(cut -d' ' -f1,2 "$RUN/ssh/host_$m.pub")
		echo "$m,$(address "$m"),[127.0.0.1]:$(port "$m") $key"
		[ "$m" != router ] || echo "bastion $key"
	done > "$RUN/known_hosts"
	{
		echo "# Made by the lab. NAME goes to a machine through a loopback port;"
		echo "# NAME-via-bastion goes through the router by ProxyJump."
		for m in $(machines); do
			p=$(port "$m")
			if [ "$m" = router ]; then echo "Host router bastion"; else echo "Host $m"; fi
			printf '  HostName 127.0.0.1\n  Port %s\n  HostKeyAlias %s\n\n' "$p" "$m"
			[ "$m" = router ] || printf 'Host %s-via-bastion\n  HostName %s\n  Port 22\n  HostKeyAlias %s\n  ProxyJump bastion\n\n' "$m" "$(address "$m")" "$m"
		done
		echo "Host *"
		printf '  User root\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n' "$RUN/ssh/id_ed25519" "$RUN/known_hosts"
	} > "$RUN/ssh_config"
}

# host_kubectl ARGS: from here, by the kubeconfig and the loopback port
host_kubectl() { read_settings; KUBECONFIG=$RUN/kubeconfig KUBECACHEDIR=$RUN/kube-cache exec "$HYPERKUBE/kubectl" "$@"; }

# inner_kubectl ARGS: from the control plane; ends with the lab whatever happens to this process
inner_kubectl() { on cp env KUBECONFIG="$RUN/pki/admin.kubeconfig" KUBECACHEDIR="$RUN/kube-cache" "$HYPERKUBE/kubectl" "$@"; }

api_ready() { curl -sf --max-time 5 --cacert "$RUN/pki/ca.crt" "https://127.0.0.1:$(port api)/readyz"; }

# exec_on NODE [--] COMMAND...
exec_on() {
	local m=${1:-}; shift || true
	[ "${1:-}" != -- ] || shift
	read_settings
	case $m in [0-9]*) m=node$m ;; esac
	[[ " $(machines | tr '\n' ' ')" = *" $m "* ]] || die "There is no machine '$m'." "This lab has: $(machines | tr '\n' ' ')" "Name one of them, or a node by its number."
	[ $# -gt 0 ] || set -- bash
	on "$m" "$@"
}

# load ARCHIVE...: import on all nodes at once; through standard input, since a
# node does not see all of the host's directories
load() {
	local f n pids=() failed=0
	[ $# -gt 0 ] || die "No image archive was named." "load needs at least one." "Run: $SELF load IMAGE.tar"
	read_settings
	for f; do [ -r "$f" ] || die "The image archive $f cannot be read." "There is no such file, or it may not be read." "Build it first, or check the path."; done
	for n in $(seq "$NODES"); do
		( for f; do on "node$n" ctr -n k8s.io images import - < "$f" | sed "s/^/node$n: /" || exit 1; done ) &
		pids+=($!)
	done
	for n in "${pids[@]}"; do wait "$n" || failed=1; done
	[ $failed = 0 ] || die "An image could not be imported on every node." "ctr refused it on at least one (see above)." "Check that it is an OCI or docker archive: tar tf FILE"
}
