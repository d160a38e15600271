# shellcheck shell=bash
# What each machine runs. All of this happens inside the machine.

# pod_routes: with the bridge CNI nothing else knows where pods are
pod_routes() { # own number, or 0
	local n
	[ "$CNI" = bridge ] || return 0
	for n in $(seq "$NODES"); do [ "$n" = "$1" ] || ip route add "$POD.$n.0/24" via "$(address "node$n")"; done
}

router() {
	until_ok 60 ip link show outside || die "The router has no link to the outside." "The interface did not appear within 60 s." "Run: $SELF down, then up"
	ssh_server
	pod_routes 0
}

outside() {
	wait_link
	ip addr add "$FAR.10/24" dev eth0; ip addr add "$FAR.11/24" dev eth0; ip link set eth0 up; ip route add default via "$FAR.1"
	give6 outside "$FAR6::1"
	ssh_server
	service outside "$TOOLS/outside"
	cat > "$D/Corefile" <<-T
	. {
		hosts {
			$FAR.10 outside.test www.outside.test
			$FAR.11 other.outside.test
			$FAR.1 router.outside.test
			fallthrough
		}
		whoami
		errors
	}
	T
	service coredns "$COREDNS/coredns" -conf "$D/Corefile"
}

control_plane() {
	local P=$RUN/pki n
	wait_link
	ip addr add "$NET.10/24" dev eth0; ip link set eth0 up; ip route add default via "$NET.1"
	give6 cp "$NET6::1"
	local services=$SERVICES pods="$POD.0.0/16" range
	[ "$DUAL" = 0 ] || services+=",$SERVICES6" pods+=",$POD6::/48"
	pod_routes 0
	mkdir -p "$D/etcd"; chmod 700 "$D/etcd"
	service etcd "$HYPERKUBE/etcd" --name cp --data-dir "$D/etcd" --unsafe-no-fsync --log-level warn \
		--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
	# Every write by a person or a tool is told in cp/audit.jsonl: tests prove by it that something wrote nothing.
	cat > "$D/audit-policy.yaml" <<-Y
	apiVersion: audit.k8s.io/v1
	kind: Policy
	omitStages: [RequestReceived]
	rules:
	- {level: None, verbs: [get, list, watch]}
	- {level: None, userGroups: ["system:nodes", "system:serviceaccounts"]}
	- {level: None, users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"]}
	- {level: Metadata}
	Y
	service apiserver "$HYPERKUBE/kube-apiserver" --audit-policy-file "$D/audit-policy.yaml" --audit-log-path "$D/audit.jsonl" --etcd-servers http://127.0.0.1:2379 --advertise-address "$NET.10" --secure-port 6443 \
		--service-cluster-ip-range "$services" --allow-privileged --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
		--client-ca-file "$P/ca.crt" --tls-cert-file "$P/apiserver.crt" --tls-private-key-file "$P/apiserver.key" \
		--service-account-issuer https://kubernetes.default.svc --service-account-key-file "$P/sa.pub" --service-account-signing-key-file "$P/sa.key" \
		--kubelet-certificate-authority "$P/ca.crt" --kubelet-client-certificate "$P/apiserver-kubelet.crt" --kubelet-client-key "$P/apiserver-kubelet.key" \
		--kubelet-preferred-address-types InternalIP --requestheader-client-ca-file "$P/ca.crt" --requestheader-allowed-names front-proxy \
		--requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group --requestheader-extra-headers-prefix X-Remote-Extra- \
		--proxy-client-cert-file "$P/front-proxy.crt" --proxy-client-key-file "$P/front-proxy.key"
	local api=(curl -sf --cacert "$P/ca.crt" --cert "$P/admin.crt" --key "$P/admin.key")
	until_ok 120 "${api[@]}" https://127.0.0.1:6443/readyz || true
	# Node objects exist before the kubelets do, each with its pod CIDR:
	# otherwise CIDRs go by the order in which the nodes happen to register.
	for n in $(seq "$NODES"); do
		range="\"$POD.$n.0/24\""
		[ "$DUAL" = 0 ] || range+=",\"$POD6:$n::/64\""
		"${api[@]}" -o /dev/null -H 'Content-Type: application/json' https://127.0.0.1:6443/api/v1/nodes -d @- <<-J || say "node$n was not created"
		{"apiVersion":"v1","kind":"Node","metadata":{"name":"node$n","labels":{"kubernetes.io/hostname":"node$n"}},
		 "spec":{"podCIDR":"$POD.$n.0/24","podCIDRs":[$range]}}
		J
	done
	# Where kubeadm keeps it; the API server's own address, which the host cannot reach.
	mkdir -p /etc/kubernetes; install -m 600 "$P/admin.kubeconfig" /etc/kubernetes/admin.conf
	touch "$RUN/api-ready"
	service kcm "$HYPERKUBE/kube-controller-manager" --kubeconfig "$P/kcm.kubeconfig" --authentication-kubeconfig "$P/kcm.kubeconfig" --authorization-kubeconfig "$P/kcm.kubeconfig" \
		--leader-elect=false --kube-api-qps 500 --kube-api-burst 1000 --use-service-account-credentials --root-ca-file "$P/ca.crt" --service-account-private-key-file "$P/sa.key" \
		--cluster-signing-cert-file "$P/ca.crt" --cluster-signing-key-file "$P/ca.key" \
		--allocate-node-cidrs --cluster-cidr "$pods" --service-cluster-ip-range "$services"
	service scheduler "$HYPERKUBE/kube-scheduler" --kubeconfig "$P/scheduler.kubeconfig" --authentication-kubeconfig "$P/scheduler.kubeconfig" --authorization-kubeconfig "$P/scheduler.kubeconfig" --leader-elect=false --kube-api-qps 500 --kube-api-burst 1000
}

# bridge_cni N: Debian's bridge plugin, and masquerading of what leaves the cluster
bridge_cni() {
	cat > /etc/cni/net.d/10-bridge.conflist <<-J
	{"cniVersion": "1.0.0", "name": "bridge", "plugins": [
	 {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
	  "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
	 {"type": "portmap", "capabilities": {"portMappings": true}}]}
	J
	iptables -t nat -A POSTROUTING -s "$POD.$1.0/24" -d "$NET.0/24" -j RETURN
	iptables -t nat -A POSTROUTING -s "$POD.$1.0/24" ! -d "$POD.0.0/16" -j MASQUERADE
}

node() {
	local n=$1 P=$RUN/pki f
	mkdir -p "$D/kubelet" /var/lib/containerd /var/lib/kubelet /etc/cni/net.d /opt/cni/bin /var/log/pods /var/log/containers /etc/containerd
	# Containers are on overlayfs, and an overlay cannot hold another's upper
	# directory: these two are directories of the machine's disk.
	for f in containerd kubelet; do mount --bind "$D/$f" "/var/lib/$f"; done
	mount --make-shared /var/lib/kubelet; mount --make-shared /var/lib/containerd
	wait_link
	local own; own=$(address "node$n")
	ip addr add "$own/24" dev eth0; ip link set eth0 up; ip route add default via "$NET.1"
	give6 "node$n" "$NET6::1"
	[ "$DUAL" = 0 ] || own+=,$(address6 "node$n")
	pod_routes "$n"
	[ "$CNI" != bridge ] || bridge_cni "$n"
	for f in /usr/lib/cni/*; do ln -sf "$f" /opt/cni/bin/; done
	cat > /etc/containerd/config.toml <<-T
	version = 2
	root = "/var/lib/containerd"
	state = "/run/containerd"
	[grpc]
	  address = "/run/containerd/containerd.sock"
	[plugins."io.containerd.grpc.v1.cri"]
	  sandbox_image = "fairlead.lab/pause:1"
	  # Without CAP_SYS_RESOURCE a lower score is refused, and no sandbox starts.
	  restrict_oom_score_adj = true
	  [plugins."io.containerd.grpc.v1.cri".containerd]
	    snapshotter = "overlayfs"
	    default_runtime_name = "runc"
	  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
	    runtime_type = "io.containerd.runc.v2"
	  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
	    SystemdCgroup = false
	    $(limits || echo "BinaryName = \"$KUBETOOLS/runcrig\"")
	  [plugins."io.containerd.grpc.v1.cri".cni]
	    bin_dir = "/opt/cni/bin"
	    conf_dir = "/etc/cni/net.d"
	T
	service containerd containerd
	cat > /etc/kubelet.yaml <<-Y
	apiVersion: kubelet.config.k8s.io/v1beta1
	kind: KubeletConfiguration
	authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $P/ca.crt}}
	authorization: {mode: Webhook}
	tlsCertFile: $P/node$n.crt
	tlsPrivateKeyFile: $P/node$n.key
	containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
	cgroupDriver: cgroupfs
	failCgroupV1: false
	failSwapOn: false
	oomScoreAdj: 0
	clusterDomain: cluster.local
	clusterDNS: [$SERVICE_DNS]
	resolvConf: /etc/resolv.conf
	makeIPTablesUtilChains: false
	imageGCHighThresholdPercent: 100
	evictionHard: {memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%", imagefs.inodesFree: "0%"}
	nodeStatusUpdateFrequency: 5s
	registryPullQPS: 0
	eventRecordQPS: 0
	serializeImagePulls: false
	maxPods: 250
	Y
	limits || printf 'cgroupsPerQOS: false\nenforceNodeAllocatable: []\n' >> /etc/kubelet.yaml
	until_ok 60 ctr version || say "containerd does not answer"
	until_ok 180 test -f "$RUN/api-ready" || say "no API server"
	service kubelet "$HYPERKUBE/kubelet" --config /etc/kubelet.yaml --kubeconfig "$P/node$n.kubeconfig" --hostname-override "node$n" --node-ip "$own" --v=2
	if [ "$PROXY" = 1 ] && [ "${PROXY_MODE%-pods}" = "$PROXY_MODE" ]; then
		service kube-proxy "$HYPERKUBE/kube-proxy" --kubeconfig "$P/proxy.kubeconfig" --hostname-override "node$n" --proxy-mode "$PROXY_MODE" --cluster-cidr "$POD.0.0/16" \
			--oom-score-adj 0 --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
	fi
}

# limits: whether containers can have resource limits here. A version 2 tree
# without controllers (they are with version 1 mounts) has none to give.
limits() { [ "$MODE" = hybrid ] || grep -qw memory /sys/fs/cgroup/cgroup.controllers; }
