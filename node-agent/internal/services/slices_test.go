package services

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// handMade is one EndpointSlice of the service web, for its port http; change makes it what a controller would not.
func handMade(name string, change func(*discoveryv1.EndpointSlice), conditions ...condition) *discoveryv1.EndpointSlice {
	s := slice(name, conditions...)
	change(s)
	return s
}

// Slices that somebody wrote by hand mean what they mean to kube-proxy.
func TestHandMadeSlices(t *testing.T) {
	one, two := ready("10.0.0.1").on("n1"), ready("10.0.0.2").on("n2")
	conditions := func(ready, serving, terminating *bool) func(*discoveryv1.EndpointSlice) {
		return func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating}
		}
	}
	ports := func(ports ...discoveryv1.EndpointPort) func(*discoveryv1.EndpointSlice) {
		return func(s *discoveryv1.EndpointSlice) { s.Ports = ports }
	}
	port := func(number *int32) discoveryv1.EndpointPort {
		return discoveryv1.EndpointPort{Name: ptr("http"), Port: number, Protocol: ptr(corev1.ProtocolTCP)}
	}
	labelled := func(label string) func(*discoveryv1.EndpointSlice) {
		return func(s *discoveryv1.EndpointSlice) { s.Labels[label] = "" }
	}
	asItIs := func(*discoveryv1.EndpointSlice) {}
	// The backends of the service as a client inside gets them, those that only keep what they have, and whether there is a drop.
	const none = "in[] kept[]"
	for name, tt := range map[string]struct {
		list []*discoveryv1.EndpointSlice
		want string
	}{
		"nothing is said":                        {[]*discoveryv1.EndpointSlice{handMade("s", conditions(nil, nil, nil), one)}, "in[10.0.0.1:8080] kept[]"},
		"ready is not said, of one that goes":    {[]*discoveryv1.EndpointSlice{handMade("s", conditions(nil, nil, ptr(true)), one)}, "in[10.0.0.1:8080] kept[]"},
		"serving is not said, of one that goes":  {[]*discoveryv1.EndpointSlice{handMade("s", conditions(ptr(false), nil, ptr(true)), one)}, "in[10.0.0.1:8080] kept[]"},
		"the same beside a ready one":            {[]*discoveryv1.EndpointSlice{handMade("s", conditions(ptr(false), nil, ptr(true)), one, two)}, "in[10.0.0.2:8080] kept[10.0.0.1:8080]"},
		"serving is not said, of one unready":    {[]*discoveryv1.EndpointSlice{handMade("s", conditions(ptr(false), nil, nil), one)}, "in[] kept[10.0.0.1:8080]"},
		"neither ready nor serving, but going":   {[]*discoveryv1.EndpointSlice{handMade("s", conditions(ptr(false), ptr(false), ptr(true)), one)}, none},
		"terminating is not said, serving is":    {[]*discoveryv1.EndpointSlice{handMade("s", conditions(ptr(false), ptr(true), nil), one)}, "in[] kept[10.0.0.1:8080]"},
		"ready and not serving":                  {[]*discoveryv1.EndpointSlice{handMade("s", conditions(ptr(true), ptr(false), nil), one)}, "in[10.0.0.1:8080] kept[]"},
		"several addresses: the first":           {[]*discoveryv1.EndpointSlice{handMade("s", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = []string{"10.0.0.1", "10.0.0.9"} }, one)}, "in[10.0.0.1:8080] kept[]"},
		"no address":                             {[]*discoveryv1.EndpointSlice{handMade("s", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = nil }, one)}, none},
		"an address with leading zeros":          {[]*discoveryv1.EndpointSlice{handMade("s", asItIs, ready("010.0.0.001"))}, "in[10.0.0.1:8080] kept[]"},
		"no node is said":                        {[]*discoveryv1.EndpointSlice{handMade("s", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].NodeName = nil }, one)}, "in[10.0.0.1:8080] kept[]"},
		"names instead of addresses":             {[]*discoveryv1.EndpointSlice{handMade("s", func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN }, one)}, none},
		"the other family":                       {[]*discoveryv1.EndpointSlice{handMade("s", asItIs, ready("fd00:1::1"))}, none},
		"no ports":                               {[]*discoveryv1.EndpointSlice{handMade("s", ports(), one)}, none},
		"a port without number":                  {[]*discoveryv1.EndpointSlice{handMade("s", ports(port(nil)), one)}, none},
		"port 0":                                 {[]*discoveryv1.EndpointSlice{handMade("s", ports(port(ptr(int32(0)))), one)}, none},
		"a port that is none, and one that is":   {[]*discoveryv1.EndpointSlice{handMade("s", ports(port(ptr(int32(65536+80))), port(ptr(int32(-1))), port(ptr(int32(81)))), one)}, "in[10.0.0.1:81] kept[]"},
		"labelled as another proxy's":            {[]*discoveryv1.EndpointSlice{handMade("s", labelled(proxyNameLabel), one), slice("t", two)}, "in[10.0.0.2:8080] kept[]"},
		"labelled as headless":                   {[]*discoveryv1.EndpointSlice{handMade("s", labelled(headlessLabel), one), slice("t", two)}, "in[10.0.0.2:8080] kept[]"},
		"twice in one slice":                     {[]*discoveryv1.EndpointSlice{slice("s", one, one)}, "in[10.0.0.1:8080] kept[]"},
		"in two slices":                          {[]*discoveryv1.EndpointSlice{slice("s", one), slice("t", one, two)}, "in[10.0.0.1:8080 10.0.0.2:8080] kept[]"},
		"ready in one of two":                    {[]*discoveryv1.EndpointSlice{slice("s", terminating("10.0.0.2").on("n2")), slice("t", two)}, "in[10.0.0.2:8080] kept[]"},
		"broken in one of two":                   {[]*discoveryv1.EndpointSlice{slice("s", condition{address: "10.0.0.2", node: "n2"}), slice("t", two)}, "in[10.0.0.2:8080] kept[]"},
		"here in one of two, whatever its state": {[]*discoveryv1.EndpointSlice{slice("s", terminating("10.0.0.1").on("n1")), slice("t", ready("10.0.0.1").on("n2"), two)}, "in[10.0.0.2:8080] kept[10.0.0.1:8080]"},
		"with different ports in two":            {[]*discoveryv1.EndpointSlice{slice("s", one), handMade("t", ports(port(ptr(int32(81)))), one)}, "in[10.0.0.1:81 10.0.0.1:8080] kept[]"},
	} {
		t.Run(name, func(t *testing.T) {
			backwards := slices.Clone(tt.list)
			slices.Reverse(backwards)
			for _, list := range [][]*discoveryv1.EndpointSlice{tt.list, backwards} {
				var in, kept []netip.AddrPort
				for _, b := range Build(service(nil), list, here).Services[0].Backends {
					if at := netip.AddrPortFrom(b.Address, b.Port); b.Internal {
						in = append(in, at)
					} else {
						kept = append(kept, at)
					}
				}
				if got := fmt.Sprintf("in%v kept%v", in, kept); got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
			}
		})
	}
}

// The API server writes the slice of default/kubernetes itself: addresses of nodes, of the one family that the service has, ready
// and nothing else said of them, no node named.
func TestSliceOfTheAPIServer(t *testing.T) {
	for family, tt := range map[discoveryv1.AddressType]struct{ clusterIP, want string }{
		discoveryv1.AddressTypeIPv4: {"10.96.0.1", "[ClusterIP=10.96.0.1:443] in[172.31.77.10 172.31.77.11] out[172.31.77.10 172.31.77.11]"},
		discoveryv1.AddressTypeIPv6: {"fd00:10:96::1", "[ClusterIP=[fd00:10:96::1]:443] in[2001:db8::10 2001:db8::11] out[2001:db8::10 2001:db8::11]"},
	} {
		s := service(func(s *corev1.Service) {
			s.Namespace, s.Name, s.Spec.ClusterIP, s.Spec.ClusterIPs = "default", "kubernetes", tt.clusterIP, []string{tt.clusterIP}
			s.Spec.Ports = []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}}
		})
		var list []*discoveryv1.EndpointSlice
		for _, kind := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			of := &discoveryv1.EndpointSlice{AddressType: kind, Ports: []discoveryv1.EndpointPort{{Name: ptr("https"), Port: ptr(int32(6443)), Protocol: ptr(corev1.ProtocolTCP)}}}
			addresses := []string{"172.31.77.11", "172.31.77.10"}
			if kind == discoveryv1.AddressTypeIPv6 {
				addresses = []string{"2001:db8::11", "2001:db8::10"}
			}
			for _, a := range addresses {
				of.Endpoints = append(of.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(true)}})
			}
			list = append(list, of)
		}
		got := Build(s, list, here).Services
		if len(got) != 1 || describe(got[0]) != tt.want || got[0].Backends[0].Port != 6443 || got[0].DropInternal {
			t.Errorf("%s: %+v, want %s", family, got, tt.want)
		}
	}
}

// One endpoint that two slices put on two nodes, or give different hints: the order of the slices must not decide, or an agent
// would choose others after a restart.
func TestTwinsDoNotDependOnTheOrder(t *testing.T) {
	for name, pair := range map[string][2]condition{
		"two nodes":               {ready("10.0.0.1").on("n2"), ready("10.0.0.1").on("n3")},
		"this node and another":   {ready("10.0.0.1").on("n1"), ready("10.0.0.1").on("n3")},
		"zones":                   {ready("10.0.0.1").hinted("zone:a"), ready("10.0.0.1").hinted("zone:b")},
		"nodes of hints":          {ready("10.0.0.1").hinted("node:n1"), ready("10.0.0.1").hinted("node:n2")},
		"a hint and none":         {ready("10.0.0.1").hinted("zone:a"), ready("10.0.0.1")},
		"unready and terminating": {condition{address: "10.0.0.1", serving: true}, terminating("10.0.0.1")},
	} {
		id := Build(service(nil), nil, here).Services[0].ServiceID
		a, b := slice("s", pair[0]), slice("t", pair[1])
		forth := endpointsOf([]*discoveryv1.EndpointSlice{a, b}, id, false, here.Name)
		back := endpointsOf([]*discoveryv1.EndpointSlice{b, a}, id, false, here.Name)
		if len(forth) != 1 || fmt.Sprint(forth) != fmt.Sprint(back) {
			t.Errorf("%s: %+v, the other way round %+v", name, forth, back)
		}
		if name == "this node and another" && forth[0].node != here.Name {
			t.Errorf("an endpoint of this node counts as %s's", forth[0].node)
		}
	}
}
