package datapath_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead.dev/node-agent/internal/datapath"
)

// servedOutside asks by an address of a service, allowed and denied in turn on one connection, and with more than fits into a
// packet. The server has to have seen the client as `sees`, and the proxy all of it.
func servedOutside(t *testing.T, name string, from *space, to, sees string, p *proxied) {
	t.Run(name, func(t *testing.T) {
		p.records()
		client := from.client(t)
		for i := range 3 {
			code, text, err := request(client, "GET", to)
			if err != nil || code != 200 || !strings.HasPrefix(text, sees) {
				t.Fatalf("request %d: %d, the server saw %q and not %s, %v", i, code, text, sees, err)
			}
			if code, text, err := request(client, "PUT", to); err != nil || code != 403 || text != "Access denied\r\n" {
				t.Fatalf("denied request %d: %d %q %v", i, code, text, err)
			}
		}
		if n := len(p.records()); n < 6 {
			t.Errorf("the proxy saw %d requests and responses", n)
		}
	})
}

// A client outside asks a service by an address of the node or of a load balancer; a pod behind it has a policy for HTTP.
func TestHTTPPolicyForClientsOutside(t *testing.T) {
	for _, routing := range []datapath.RoutingMode{datapath.RoutingTunnel, datapath.RoutingNative} {
		for _, masquerade := range []string{"programs", "nftables"} {
			t.Run(fmt.Sprintf("%s, masquerade by %s", routing, masquerade), func(t *testing.T) {
				c := newClusterWith(t, routing, func(config *datapath.Config) {
					config.L7Proxy, config.BPFMasquerade = true, masquerade == "programs"
				})
				outside := withOutside6(t, c, nil)
				for i, n := range c.nodes {
					for _, a := range []string{"192.0.2.%d/32", "2001:db8:77::%d/128"} {
						at := prefix(fmt.Sprintf(a, 2-i))
						must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: at, Identity: 6}))
					}
				}
				here, there := c.nodes[0].pods[0], c.nodes[1].pods[0]
				for i, server := range []*pod{here, there} {
					proxy := startProxies(t, c.nodes[i], [2]uint16{})
					server.space.web(t, ":8000")
					govern(t, server, true, false, proxyLine(server, 0, datapath.Ingress, 8000, proxy.ports[datapath.Ingress]))
					for _, v6 := range []bool{false, true} {
						service := echoService(unix.IPPROTO_TCP, backend(server, 8000))
						doors, sees := []string{nodeOutside + ":30080", vip + ":80"}, outsideAddress+":"
						if v6 {
							service = echoService6(unix.IPPROTO_TCP, datapath.Backend{Address: server.address6, Port: 8000, Internal: true, External: true})
							doors, sees = []string{"[" + nodeOutside6 + "]:30080", "[" + vip6 + "]:80"}, "["+outsideAddress6+"]:"
						}
						if server == there {
							// The node of the entry stands in for the client.
							sees = ""
						}
						c.publish(t, service)
						for _, to := range doors {
							servedOutside(t, fmt.Sprintf("backend on node %d by %s", i+1, to), outside, to, sees, proxy)
						}
					}
				}
			})
		}
	}
}

// The backend's node answers the client itself, and its proxy does so for the pod.
func TestHTTPPolicyWithDirectServerReturn(t *testing.T) {
	c := newClusterWith(t, datapath.RoutingNative, func(config *datapath.Config) { config.L7Proxy = true })
	outside := withOutside(t, c, func(config *datapath.Config) { config.LoadBalancer.Mode = "dsr" })
	routeBack(t, c)
	server := c.nodes[1].pods[0]
	server.space.web(t, ":8000")
	proxy := startProxies(t, c.nodes[1], [2]uint16{})
	govern(t, server, true, false, proxyLine(server, 0, datapath.Ingress, 8000, proxy.ports[datapath.Ingress]))
	c.publish(t, echoService(unix.IPPROTO_TCP, backend(server, 8000)))
	// Only by this one: the answers pass the first node here, which takes nothing that claims to be from itself.
	servedOutside(t, "load balancer", outside, vip+":80", outsideAddress+":", proxy)
}

// A pod of another node that asks by this node's address and port, where no socket program sees to it.
func TestHTTPPolicyByTheNodePortOfAnotherNode(t *testing.T) {
	eachRouting(t, func(t *testing.T, c *cluster) {
		for _, n := range c.nodes {
			must(t, n.datapath.Close())
			n.config.L7Proxy = true
			n.open()
		}
		server, client := c.nodes[0].pods[0], c.nodes[1].pods[0]
		server.space.web(t, ":8000")
		proxy := startProxies(t, c.nodes[0], [2]uint16{})
		govern(t, server, true, false, proxyLine(server, 0, datapath.Ingress, 8000, proxy.ports[datapath.Ingress]))
		for i, n := range c.nodes {
			must(t, n.datapath.UpsertIP(ctx, datapath.IPEntry{Prefix: netip.PrefixFrom(c.nodes[1-i].config.NodeAddress, 32), Identity: 6}))
		}
		must(t, c.nodes[0].datapath.UpsertService(ctx, echoService(unix.IPPROTO_TCP, backend(server, 8000))))
		sees := client.address.String() + ":"
		if c.nodes[0].config.Routing == datapath.RoutingTunnel {
			sees = "192.0.2.2:"
		}
		servedOutside(t, "192.0.2.1:30080", client.space, "192.0.2.1:30080", sees, proxy)
	})
}
