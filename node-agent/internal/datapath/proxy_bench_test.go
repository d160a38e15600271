package datapath_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"fairlead.dev/node-agent/internal/datapath"
)

// BenchmarkHTTP asks a web server of a pod of the same node from four places at once, with and without a policy on HTTP, by a
// new connection for each request (short) and by one for all (kept). Compare requests per second within one run.
func BenchmarkHTTP(b *testing.B) {
	const places = 4
	c := newClusterWith(b, datapath.RoutingTunnel, func(config *datapath.Config) { config.L7Proxy = true })
	client, server := c.nodes[0].pods[0], c.nodes[0].pods[1]
	server.space.web(b, ":8000")
	proxies := startProxies(b, c.nodes[0], [2]uint16{})
	to := "http://" + netip.AddrPortFrom(server.address, 8000).String() + "/"
	for _, governed := range []bool{false, true} {
		name := "without policy"
		if governed {
			name = "with policy"
			govern(b, server, true, false, proxyLine(server, client.endpoint.Identity, datapath.Ingress, 8000, proxies.ports[datapath.Ingress]))
		}
		for _, kept := range []bool{false, true} {
			kind := "short"
			if kept {
				kind = "kept"
			}
			b.Run(kind+"/"+name, func(b *testing.B) {
				work := make(chan struct{}, places)
				var all sync.WaitGroup
				for range places {
					// One thread of each place stays in the client's namespace.
					all.Go(func() {
						if err := client.space.in(func() error {
							transport := &http.Transport{DisableKeepAlives: !kept, DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
								return client.space.dial(network, to)
							}}
							defer transport.CloseIdleConnections()
							h := &http.Client{Transport: transport, Timeout: 5 * time.Second}
							for range work {
								r, err := h.Get(to)
								if err != nil {
									return err
								}
								_, _ = io.Copy(io.Discard, r.Body)
								r.Body.Close()
							}
							return nil
						}); err != nil {
							b.Error(err)
							for range work {
							}
						}
					})
				}
				for b.Loop() {
					work <- struct{}{}
				}
				close(work)
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
			})
		}
	}
}
