package services

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/quick"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fairlead.dev/node-agent/internal/datapath"
)

func ptr[T any](v T) *T { return &v }

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.5", Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}}
	if change != nil {
		change(s)
	}
	return s
}

type condition struct {
	address                     string
	ready, serving, terminating bool
	// node and hints: "zone:a node:n1".
	node, hints string
}

func ready(address string) condition { return condition{address: address, ready: true, serving: true} }
func terminating(address string) condition {
	return condition{address: address, serving: true, terminating: true}
}
func (c condition) on(node string) condition {
	c.node = node
	return c
}
func (c condition) hinted(hints string) condition {
	c.hints = hints
	return c
}

func slice(name string, conditions ...condition) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)}}}
	for _, c := range conditions {
		if strings.Contains(c.address, ":") {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		e := discoveryv1.Endpoint{Addresses: []string{c.address}, NodeName: ptr(c.node),
			Conditions: discoveryv1.EndpointConditions{Ready: &c.ready, Serving: &c.serving, Terminating: &c.terminating}}
		for hint := range strings.FieldsSeq(c.hints) {
			if e.Hints == nil {
				e.Hints = &discoveryv1.EndpointHints{}
			}
			if zone, ok := strings.CutPrefix(hint, "zone:"); ok {
				e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: zone})
			} else if node, ok := strings.CutPrefix(hint, "node:"); ok {
				e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: node})
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

var here = Node{Name: "n1", Zone: "a", Addresses: []netip.Addr{netip.MustParseAddr("172.31.77.11"), netip.MustParseAddr("2001:db8::11")}}

// describe is a service in one line: frontends, backends inside, outside, flags.
func describe(s datapath.Service) string {
	var fronts, inside, outside []string
	for _, f := range s.Frontends {
		fronts = append(fronts, fmt.Sprintf("%s=%s", f.Kind, netip.AddrPortFrom(f.Address, f.Port)))
	}
	for _, b := range s.Backends {
		if b.Internal {
			inside = append(inside, b.Address.String())
		}
		if b.External {
			outside = append(outside, b.Address.String())
		}
	}
	text := fmt.Sprintf("%v in%v out%v", fronts, inside, outside)
	if s.DropInternal {
		text += " drop-in"
	}
	if s.DropExternal {
		text += " drop-out"
	}
	return text
}

func local(s *corev1.Service) {
	s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal, 30080
}

func TestBuild(t *testing.T) {
	const plain = "[ClusterIP=10.96.0.5:80]"
	const nodePort = "[ClusterIP=10.96.0.5:80 NodePort=172.31.77.11:30080 NodePort=0.0.0.0:30080]"
	one, two := ready("10.0.0.1").on("n1"), ready("10.0.0.2").on("n2")
	both := " in[10.0.0.1 10.0.0.2] out[10.0.0.1 10.0.0.2]"
	internalLocal := func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal) }
	for name, tt := range map[string]struct {
		change     func(*corev1.Service)
		conditions []condition
		want       []string
	}{
		"plain":                               {nil, []condition{one, two}, []string{plain + both}},
		"no endpoints is a frontend":          {nil, nil, []string{plain + " in[] out[]"}},
		"unready is left out":                 {nil, []condition{one, {address: "10.0.0.2"}}, []string{plain + " in[10.0.0.1] out[10.0.0.1]"}},
		"terminating beside a ready one":      {nil, []condition{one, terminating("10.0.0.2")}, []string{plain + " in[10.0.0.1] out[10.0.0.1]"}},
		"terminating and no other":            {nil, []condition{terminating("10.0.0.2")}, []string{plain + " in[10.0.0.2] out[10.0.0.2]"}},
		"terminating and broken":              {nil, []condition{{address: "10.0.0.1", terminating: true}}, []string{plain + " in[] out[]"}},
		"headless":                            {func(s *corev1.Service) { s.Spec.ClusterIP = "None" }, []condition{one}, nil},
		"external name":                       {func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, []condition{one}, nil},
		"somebody else's":                     {func(s *corev1.Service) { s.Labels = map[string]string{proxyNameLabel: "other"} }, []condition{one}, nil},
		"nobody's, headless by its label":     {func(s *corev1.Service) { s.Labels = map[string]string{headlessLabel: ""} }, []condition{one}, nil},
		"another port's endpoints":            {func(s *corev1.Service) { s.Spec.Ports[0].Name = "metrics" }, []condition{one}, []string{plain + " in[] out[]"}},
		"not ready is published":              {func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }, []condition{{address: "10.0.0.1"}}, []string{plain + " in[10.0.0.1] out[10.0.0.1]"}},
		"externally local":                    {local, []condition{one, two}, []string{nodePort + " in[10.0.0.1 10.0.0.2] out[10.0.0.1]"}},
		"externally local, none here":         {local, []condition{two}, []string{nodePort + " in[10.0.0.2] out[] drop-out"}},
		"externally local, none at all":       {local, nil, []string{nodePort + " in[] out[]"}},
		"externally local, terminating here":  {local, []condition{terminating("10.0.0.1").on("n1"), two}, []string{nodePort + " in[10.0.0.2] out[10.0.0.1]"}},
		"externally local on a cluster IP":    {func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }, []condition{two}, []string{plain + " in[10.0.0.2] out[10.0.0.2]"}},
		"internally local":                    {internalLocal, []condition{one, two}, []string{plain + " in[10.0.0.1] out[10.0.0.1 10.0.0.2]"}},
		"internally local, none here":         {internalLocal, []condition{two}, []string{plain + " in[] out[10.0.0.2] drop-in"}},
		"zone hints":                          {nil, []condition{one.hinted("zone:a"), two.hinted("zone:b")}, []string{plain + " in[10.0.0.1] out[10.0.0.1]"}},
		"zone hints, none for this one":       {nil, []condition{one.hinted("zone:b"), two.hinted("zone:c")}, []string{plain + both}},
		"zone hints, one has none":            {nil, []condition{one.hinted("zone:a"), two}, []string{plain + both}},
		"node hints before zone hints":        {nil, []condition{one.hinted("zone:a node:n1"), two.hinted("zone:a node:n2")}, []string{plain + " in[10.0.0.1] out[10.0.0.1]"}},
		"node hints, none for this node":      {nil, []condition{one.hinted("zone:a node:n3"), two.hinted("zone:a node:n2")}, []string{plain + both}},
		"hints do not count for policy Local": {local, []condition{one.hinted("zone:b"), two.hinted("zone:a")}, []string{nodePort + " in[10.0.0.2] out[10.0.0.1]"}},
		"all kinds of addresses": {func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeLoadBalancer, 30080
			s.Spec.ExternalIPs = []string{"198.51.100.80"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.81", IPMode: ptr(corev1.LoadBalancerIPModeVIP)}, {IP: "198.51.100.82", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}, {Hostname: "x"}}
		}, []condition{one}, []string{"[ClusterIP=10.96.0.5:80 NodePort=172.31.77.11:30080 NodePort=0.0.0.0:30080 LoadBalancer=198.51.100.81:80 ExternalIP=198.51.100.80:80] in[10.0.0.1] out[10.0.0.1]"}},
		"both families": {func(s *corev1.Service) {
			s.Spec.ClusterIPs = []string{"10.96.0.5", "fd00::5"}
			s.Spec.Ports[0].NodePort = 30080
		}, []condition{one}, []string{nodePort + " in[10.0.0.1] out[10.0.0.1]", "[ClusterIP=[fd00::5]:80 NodePort=[2001:db8::11]:30080 NodePort=[::]:30080] in[] out[]"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range Build(service(tt.change), []*discoveryv1.EndpointSlice{slice("s", tt.conditions...)}, here).Services {
				got = append(got, describe(s))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// A targetPort by name may be another number in each pod: Kubernetes makes a slice for each then, and a service has backends of
// different ports. Ports of one number and two protocols, or of two names, are apart; so are the families.
func TestNamedPorts(t *testing.T) {
	s := service(func(s *corev1.Service) {
		s.Spec.ClusterIPs = []string{"10.96.0.5", "fd00::5"}
		s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}, {Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP}}
	})
	with := func(name, address string, udp, tcp int32) *discoveryv1.EndpointSlice {
		out := slice(name, ready(address))
		out.Ports = []discoveryv1.EndpointPort{{Name: ptr("dns"), Port: &udp, Protocol: ptr(corev1.ProtocolUDP)}, {Name: ptr("dns-tcp"), Port: &tcp, Protocol: ptr(corev1.ProtocolTCP)}}
		return out
	}
	list := []*discoveryv1.EndpointSlice{with("a", "10.0.0.1", 1053, 2053), with("b", "10.0.0.2", 1054, 2054), with("c", "fd00:1::1", 1055, 2055)}
	got := map[string][]string{}
	for _, s := range Build(s, list, here).Services {
		for _, b := range s.Backends {
			name := fmt.Sprint(s.PortName, " ", s.Frontends[0].Address)
			got[name] = append(got[name], netip.AddrPortFrom(b.Address, b.Port).String())
		}
	}
	for name, want := range map[string]string{
		"dns 10.96.0.5": "[10.0.0.1:1053 10.0.0.2:1054]", "dns-tcp 10.96.0.5": "[10.0.0.1:2053 10.0.0.2:2054]",
		"dns fd00::5": "[[fd00:1::1]:1055]", "dns-tcp fd00::5": "[[fd00:1::1]:2055]",
	} {
		if fmt.Sprint(got[name]) != want {
			t.Errorf("%s: %v, want %s", name, got[name], want)
		}
	}
}

func TestExternalAddressesForPodsWhereAskedFor(t *testing.T) {
	s := service(func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"198.51.100.80"} })
	for _, asked := range []bool{false, true} {
		node := here
		node.ExternalIPsFromPods = asked
		if built := Build(s, nil, node).Services; len(built) != 1 || built[0].ExternalInside != asked {
			t.Errorf("asked for: %v; got %+v", asked, built)
		}
	}
}

func TestAffinityRangesAndHealth(t *testing.T) {
	s := service(func(s *corev1.Service) {
		local(s)
		s.Spec.Type, s.Spec.HealthCheckNodePort, s.Spec.SessionAffinity = corev1.ServiceTypeLoadBalancer, 32000, corev1.ServiceAffinityClientIP
		s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", " 10.0.0.0/8 "}
		s.Spec.ClusterIPs = []string{"10.96.0.5", "fd00::5"}
	})
	got := Build(s, []*discoveryv1.EndpointSlice{slice("s", ready("10.0.0.1").on("n1"), terminating("10.0.0.3").on("n1"), ready("10.0.0.2").on("n2"))}, here)
	if got.HealthPort != 32000 || got.LocalEndpoints != (PerFamily{V4: 1}) {
		t.Errorf("health port %d, %+v local", got.HealthPort, got.LocalEndpoints)
	}
	v4, v6 := got.Services[0], got.Services[1]
	if v4.AffinitySeconds != 10800 || fmt.Sprint(v4.SourceRanges) != "[10.0.0.0/8 192.0.2.0/24]" {
		t.Errorf("got %+v", v4)
	}
	if fmt.Sprint(v6.SourceRanges) != "[::/128]" {
		t.Errorf("ranges of the other family let everybody in: %v", v6.SourceRanges)
	}
	s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(7))}}
	if got := Build(s, nil, here).Services[0].AffinitySeconds; got != 7 {
		t.Errorf("affinity %d s", got)
	}
}

// Whatever the endpoints: who may be asked is one of them, a ready one where there is a ready one, and who has none is
// refused only where nobody has any.
func TestChoiceProperties(t *testing.T) {
	property := func(states []uint8, policies uint8) bool {
		var conditions []condition
		for i, x := range states {
			c := condition{address: fmt.Sprintf("10.0.%d.%d", i/200, i%200+1), ready: x&1 != 0, terminating: x&3 == 2, serving: x&1 != 0 || x&4 != 0, node: fmt.Sprintf("n%d", x>>3&1+1)}
			if x&16 != 0 {
				c.hints = fmt.Sprintf("zone:%c", 'a'+x>>5&1)
			}
			conditions = append(conditions, c)
		}
		s := service(func(s *corev1.Service) {
			if policies&1 != 0 {
				local(s)
			}
			if policies&2 != 0 {
				s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
			}
		})
		got := Build(s, []*discoveryv1.EndpointSlice{slice("s", conditions...)}, here).Services[0]
		again := slices.Clone(conditions)
		slices.Reverse(again)
		if describe(Build(s, []*discoveryv1.EndpointSlice{slice("s", again...)}, here).Services[0]) != describe(got) {
			t.Log("the order of the endpoints matters")
			return false
		}
		for view, drop := range map[int]bool{0: got.DropInternal, 1: got.DropExternal} {
			count, chosenReady, chosenTerminating, usable := 0, 0, 0, 0
			for _, c := range conditions {
				if c.ready || c.serving && c.terminating {
					usable++
				}
			}
			for _, b := range got.Backends {
				if view == 0 && b.Internal || view == 1 && b.External {
					count++
					if b.Terminating {
						chosenTerminating++
					} else {
						chosenReady++
					}
				}
			}
			if chosenReady > 0 && chosenTerminating > 0 || drop != (count == 0 && usable > 0) {
				t.Logf("view %d: %d ready and %d terminating of %d, drop %t", view, chosenReady, chosenTerminating, usable, drop)
				return false
			}
		}
		return true
	}
	if err := quick.Check(property, &quick.Config{MaxCount: 2000}); err != nil {
		t.Error(err)
	}
}

func TestHostPorts(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{
			{Ports: []corev1.ContainerPort{{ContainerPort: 80}, {ContainerPort: 8080, HostPort: 8888}}}}},
			Status: corev1.PodStatus{PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}}}
		if change != nil {
			change(p)
		}
		return p
	}
	const v4 = "[HostPort=172.31.77.11:8888 HostPort=0.0.0.0:8888] in[10.0.0.1] out[10.0.0.1]"
	for name, tt := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"both families":       {nil, []string{v4, "[HostPort=[2001:db8::11]:8888 HostPort=[::]:8888] in[fd00::1] out[fd00::1]"}},
		"one address":         {func(p *corev1.Pod) { p.Spec.Containers[0].Ports[1].HostIP = "127.0.0.1" }, []string{"[HostPort=127.0.0.1:8888] in[10.0.0.1] out[10.0.0.1]"}},
		"every address of v4": {func(p *corev1.Pod) { p.Spec.Containers[0].Ports[1].HostIP = "0.0.0.0" }, []string{v4}},
		"a sidecar's": {func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 1, HostPort: 8887}}},
				{RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways), Ports: p.Spec.Containers[0].Ports[1:]}}
			p.Spec.Containers[0].Ports = nil
			p.Status.PodIPs = p.Status.PodIPs[:1]
		}, []string{v4}},
		"on the host's network": {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, nil},
		"another node's":        {func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, nil},
		"finished":              {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, nil},
		"without address yet":   {func(p *corev1.Pod) { p.Status = corev1.PodStatus{} }, nil},
	} {
		var got []string
		for _, s := range HostPorts(pod(tt.change), here) {
			got = append(got, describe(s))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
