package datapath_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// shapes are a map's key and value in another version.
type shapes struct{ key, value datapath.Reshaped }

func ahead(name string) datapath.Reshaped {
	return datapath.Reshaped{Ahead: map[string]uint32{name: 0xffffffff}}
}

// Layouts that another version might have: fields that are not there yet, or not any more, and numbers that had less room, or
// have more.
var (
	connectionsBefore = shapes{datapath.Reshaped{Sized: map[string]uint32{"endpoint": 1}, Without: []string{"pad"}},
		datapath.Reshaped{Ahead: map[string]uint32{"obsolete": 0xffffffff}, Without: []string{"proxy_port"}, Sized: map[string]uint32{"rule": 2}}}
	connectionsAfter = shapes{datapath.Reshaped{Sized: map[string]uint32{"endpoint": 4}, Ahead: map[string]uint32{"zone": 0}},
		datapath.Reshaped{Ahead: map[string]uint32{"later": 0xffffffff}, Sized: map[string]uint32{"flags": 4}}}
	natBefore    = shapes{datapath.Reshaped{Without: []string{"pad"}}, datapath.Reshaped{Without: []string{"pad"}, Ahead: map[string]uint32{"obsolete": 7}}}
	natAfter     = shapes{datapath.Reshaped{Sized: map[string]uint32{"direction": 4}}, datapath.Reshaped{Sized: map[string]uint32{"flags": 2}, Ahead: map[string]uint32{"later": 7}}}
	layoutBefore = map[string]shapes{
		"connections": connectionsBefore, "openings": connectionsBefore, "nat": natBefore, "nat_openings": natBefore,
		"endpoints":  {value: datapath.Reshaped{Sized: map[string]uint32{"flags": 1}, Without: []string{"pad"}}},
		"interfaces": {value: datapath.Reshaped{Sized: map[string]uint32{"flags": 1}, Without: []string{"pad"}}},
		"namespaces": {value: ahead("obsolete")}, "ipcache": {value: ahead("obsolete")}, "policy": {value: ahead("obsolete")},
		"services": {value: datapath.Reshaped{Sized: map[string]uint32{"flags": 1}}}, "backends": {value: datapath.Reshaped{Sized: map[string]uint32{"service": 2}}},
		"affinity": {datapath.Reshaped{Sized: map[string]uint32{"by_address": 1}}, datapath.Reshaped{Without: []string{"pad"}}},
		"sockets":  {datapath.Reshaped{Without: []string{"pad"}}, ahead("obsolete")},
	}
	layoutAfter = map[string]shapes{
		"connections": connectionsAfter, "openings": connectionsAfter, "nat": natAfter, "nat_openings": natAfter,
		"endpoints": {value: datapath.Reshaped{Sized: map[string]uint32{"flags": 4, "id": 4}}}, "interfaces": {value: ahead("later")},
		"namespaces": {value: ahead("later")}, "ipcache": {value: ahead("later")}, "policy": {value: datapath.Reshaped{Sized: map[string]uint32{"rule": 8}}},
		"services": {datapath.Reshaped{Sized: map[string]uint32{"protocol": 2}}, ahead("later")}, "slots": {key: datapath.Reshaped{Sized: map[string]uint32{"list": 8}}},
		"backends": {value: datapath.Reshaped{Sized: map[string]uint32{"service": 8}}},
		"affinity": {datapath.Reshaped{Sized: map[string]uint32{"service": 8}}, datapath.Reshaped{Sized: map[string]uint32{"backend": 8}}},
		"sockets":  {datapath.Reshaped{Ahead: map[string]uint32{"zone": 0}}, ahead("later")},
	}
)

// leaveAs gives the node's maps the names, and these ones the layouts, of another version.
func (n *node) leaveAs(t *testing.T, version int, layout map[string]shapes) {
	t.Helper()
	for name, s := range layout {
		must(t, datapath.LeaveAs(filepath.Join(n.config.BPFFS, "fairlead", "maps"), name, version, s.key, s.value))
	}
	n.relabel(t, version)
}

// keepAsking asks over each connection until it is told to stop, and gives what went wrong.
func keepAsking(conns map[string]net.Conn) (stop func() map[string]error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	var mu sync.Mutex
	failed := map[string]error{}
	for name, c := range conns {
		wait.Go(func() {
			for every := time.NewTicker(10 * time.Millisecond); ctx.Err() == nil; <-every.C {
				if _, err := ask(c, "still there?"); err != nil {
					mu.Lock()
					failed[name] = err
					mu.Unlock()
					return
				}
			}
		})
	}
	return func() map[string]error {
		cancel()
		wait.Wait()
		return failed
	}
}

// connectionsOf are a node's connections and translations, in words that the layout does not change.
func connectionsOf(t *testing.T, n *node) (out []string) {
	t.Helper()
	all, err := n.datapath.Conntrack(0)
	must(t, err)
	for _, c := range all {
		out = append(out, fmt.Sprintf("%d %s %s %d %s %d %s", c.Protocol, c.Source, c.Destination, c.Direction, c.Flags, c.SourceIdentity, c.TranslatedFrom))
	}
	nat, err := n.datapath.NAT(0)
	must(t, err)
	for _, e := range nat {
		out = append(out, fmt.Sprintf("%d %s %s %s %s", e.Protocol, e.Source, e.Destination, e.Translated, e.Flags))
	}
	slices.Sort(out)
	return out
}

// relayoutRig is a node with connections of all kinds that are open.
type relayoutRig struct {
	*node
	conns  map[string]net.Conn
	chosen string
}

const affineService = "10.96.0.20:80"

func newRelayoutRig(t *testing.T) *relayoutRig {
	t.Helper()
	c := newClusterWith(t, datapath.RoutingTunnel, func(config *datapath.Config) { config.Masquerade6 = true })
	r := &relayoutRig{node: c.nodes[0], conns: map[string]net.Conn{}}
	n, other := r.node, c.nodes[1]
	server, client := n.pods[0], other.pods[0]
	server.space.echoTCP(t, ":7001")
	govern(t, server, true, true, line(server, client.endpoint.Identity, datapath.Ingress, unix.IPPROTO_TCP, 7001, false, 9))
	for _, a := range []string{world, "[" + world6 + "]"} {
		other.space.echoTCP(t, a+":7201")
	}
	var backends []datapath.Backend
	for _, p := range other.pods {
		p.space.serve(t, "tcp", ":7300", func(c net.Conn) {
			buffer := make([]byte, 256)
			for {
				if _, err := c.Read(buffer); err != nil {
					return
				}
				if _, err := fmt.Fprintln(c, p.address); err != nil {
					return
				}
			}
		})
		backends = append(backends, backend(p, 7300))
	}
	must(t, n.datapath.UpsertService(ctx, datapath.Service{
		ServiceID: datapath.ServiceID{Namespace: "default", Name: "affine", Protocol: unix.IPPROTO_TCP}, AffinitySeconds: 600, Backends: backends,
		Frontends: []datapath.Frontend{{Address: addr("10.96.0.20"), Port: 80, Protocol: unix.IPPROTO_TCP, Kind: datapath.ServiceClusterIP}},
	}))
	for name, d := range map[string]struct {
		from        *pod
		network, to string
	}{
		"governed": {client, "tcp4", server.address.String() + ":7001"}, "governed, version 6": {client, "tcp6", "[" + server.address6.String() + "]:7001"},
		"masqueraded": {n.pods[1], "tcp4", world + ":7201"}, "masqueraded, version 6": {n.pods[1], "tcp6", "[" + world6 + "]:7201"},
		"service": {n.pods[1], "tcp4", affineService},
	} {
		conn, err := d.from.space.dial(d.network, d.to)
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		// Open is what goes on after an answer.
		for range 2 {
			answer, err := ask(conn, "before")
			must(t, err)
			if name == "service" {
				r.chosen = answer
			}
		}
		r.conns[name] = conn
	}
	return r
}

// An agent whose maps have really another layout than those of the version before, or after, takes over all that is open: while
// traffic goes on, no connection is cut.
func TestOtherLayoutsAreTakenOver(t *testing.T) {
	for name, test := range map[string]struct {
		version int
		layout  map[string]shapes
	}{"upgrade": {1, layoutBefore}, "downgrade": {3, layoutAfter}} {
		t.Run(name, func(t *testing.T) {
			r := newRelayoutRig(t)
			before := connectionsOf(t, r.node)
			endpoints, err := r.datapath.Endpoints()
			must(t, err)
			lines, err := r.datapath.Policy(r.pods[0].endpoint.ID)
			must(t, err)
			stop := keepAsking(r.conns)
			must(t, r.datapath.Close())
			r.leaveAs(t, test.version, test.layout)
			r.open()
			for name, err := range stop() {
				t.Errorf("the connection %q was cut: %v", name, err)
			}
			after := connectionsOf(t, r.node)
			for _, c := range before {
				if !slices.Contains(after, c) {
					t.Errorf("not taken over: %s; there are\n%s", c, strings.Join(after, "\n"))
				}
			}
			if now, err := r.datapath.Endpoints(); err != nil || fmt.Sprint(sortedEndpoints(now)) != fmt.Sprint(sortedEndpoints(endpoints)) {
				t.Errorf("endpoints became %+v, they were %+v; %v", now, endpoints, err)
			}
			if now, err := r.datapath.Policy(r.pods[0].endpoint.ID); err != nil || fmt.Sprint(now) != fmt.Sprint(lines) {
				t.Errorf("policy became %+v, it was %+v; %v", now, lines, err)
			}
			for range 8 {
				if got, err := r.pods[1].space.try("tcp4", affineService); err != nil || got != r.chosen {
					t.Errorf("the client of a service with affinity got %q, it had %q; %v", got, r.chosen, err)
				}
			}
			took := map[string]int{}
			for _, c := range r.datapath.CarriedOver() {
				if took[c.Map] = c.Entries; c.Lost > 0 || c.Problem != "" {
					t.Errorf("%s: %+v", c.Map, c)
				}
			}
			for _, name := range []string{"endpoints", "policy", "ipcache", "connections", "nat", "services", "slots", "backends", "affinity"} {
				if took[name] == 0 {
					t.Errorf("nothing of %s was taken over: %v", name, took)
				}
			}
		})
	}
}

func sortedEndpoints(all []datapath.Endpoint) []datapath.Endpoint {
	byID := map[datapath.EndpointID]datapath.Endpoint{}
	for _, e := range all {
		slices.SortFunc(e.Addresses, func(a, b netip.Addr) int { return a.Compare(b) })
		byID[e.ID] = e
	}
	var out []datapath.Endpoint
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		out = append(out, byID[id])
	}
	return out
}

// What cannot be taken over is counted and said, map by map, and nothing that depends on it is taken over in its place.
func TestWhatOtherLayoutsLoseIsCounted(t *testing.T) {
	r := newRelayoutRig(t)
	connections, err := r.datapath.Conntrack(0)
	must(t, err)
	must(t, r.datapath.Close())
	r.leaveAs(t, 3, map[string]shapes{
		// Keys that another version tells apart by what this one does not know.
		"connections": {key: datapath.Reshaped{Ahead: map[string]uint32{"zone": 5}}},
		// A port in network order with four bytes means nothing here.
		"nat": {value: datapath.Reshaped{Sized: map[string]uint32{"port": 4}, Type: "__be32"}},
		// A key of bits.
		"policy":   {key: datapath.Reshaped{Sized: map[string]uint32{"endpoint": 8}}},
		"backends": {value: datapath.Reshaped{Sized: map[string]uint32{"port": 4}, Type: "__be32"}},
		"services": {value: ahead("later")},
	})
	r.open()
	said := map[string]datapath.Carried{}
	for _, c := range r.datapath.CarriedOver() {
		said[c.Map] = c
	}
	for name, want := range map[string]struct {
		lost int
		why  string
	}{
		"connections": {-1, "does not tell them apart"}, "nat": {-1, "its value: port has 4 bytes in one version and 2 in the other, and is no plain number"},
		"policy": {1, "its key, whose length is counted in bits, has other fields"}, "backends": {2, "its value: port"},
		"slots": {-1, "it has the numbers of backends"}, "services": {1, "it has the numbers of"}, "affinity": {1, "it has the numbers of services"},
	} {
		c := said[name]
		if c.Lost == 0 || want.lost > 0 && c.Lost != want.lost || c.Entries != 0 || !strings.Contains(c.Problem, want.why) {
			t.Errorf("%s: lost %d, took over %d, because %q; want %d lost because %q", name, c.Lost, c.Entries, c.Problem, want.lost, want.why)
		}
	}
	if c := said["endpoints"]; c.Entries == 0 || c.Lost != 0 || c.Problem != "" {
		t.Errorf("endpoints, which have the same layout: %+v", c)
	}
	if got := said["connections"].Lost; got > len(connections) {
		t.Errorf("%d connections were lost of %d", got, len(connections))
	}
}

// What opens while the new agent loads its programs is taken over as well.
func TestWhatOpensMeanwhileIsTakenOver(t *testing.T) {
	r := newRelayoutRig(t)
	must(t, r.datapath.Close())
	r.relabel(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var opened []net.Conn
	var wait sync.WaitGroup
	wait.Go(func() {
		for ctx.Err() == nil {
			if c, err := r.pods[1].space.dial("tcp4", world+":7201"); err == nil {
				if _, err := ask(c, "open"); err == nil {
					_, _ = ask(c, "goes on")
					opened = append(opened, c)
					continue
				}
				c.Close()
			}
		}
	})
	r.open()
	cancel()
	wait.Wait()
	there := strings.Join(connectionsOf(t, r.node), "\n")
	missing := 0
	for _, c := range opened {
		if !strings.Contains(there, c.LocalAddr().String()) {
			missing++
		}
		c.Close()
	}
	if t.Logf("%d connections opened meanwhile", len(opened)); missing > 0 || len(opened) < 10 {
		t.Errorf("of %d connections that opened meanwhile, %d were not taken over", len(opened), missing)
	}
}

// Maps that grew are taken over as large as they were: a smaller one would have no room, and the agent could not start.
func TestGrownMapsAreTakenOver(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingTunnel, func(config *datapath.Config) { config.PolicyMax = 16 })
	n := c.nodes[0]
	var lines []datapath.PolicyEntry
	for port := range uint16(100) {
		lines = append(lines, line(n.pods[0], 1000, datapath.Ingress, unix.IPPROTO_TCP, 1000+port, false, 9))
	}
	for some := range slices.Chunk(lines, 10) {
		must(t, n.datapath.ApplyPolicy(ctx, some, nil))
	}
	must(t, n.datapath.Close())
	n.leaveAs(t, 3, map[string]shapes{"policy": {value: ahead("later")}})
	n.open()
	if now, err := n.datapath.Policy(n.pods[0].endpoint.ID); err != nil || len(now) != len(lines) {
		t.Errorf("%d of %d lines were taken over; %v", len(now), len(lines), err)
	}
}
