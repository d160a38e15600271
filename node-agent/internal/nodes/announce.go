package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/datapath"
)

const (
	// unreachableTimeout bounds how long a new pod waits for a node that does not answer.
	unreachableTimeout = time.Second
	// busyTimeout is for a node whose agent is connected: it answers, only late, and waiting saves a dropped packet.
	busyTimeout = 5 * time.Second
)

// Announcer tells the agents of other nodes of new endpoints, over connections that it keeps.
type Announcer struct {
	// Credentials gives those for a node's agent.
	Credentials func(node string) credentials.TransportCredentials
	// Port of the agents.
	Port int
	Log  *slog.Logger

	// Sent and Failed count announcements.
	Sent, Failed atomic.Uint64
	mu           sync.Mutex
	connections  map[string]connection
}

type connection struct {
	address string
	client  *grpc.ClientConn
}

func (a *Announcer) connect(n datapath.Node) (*grpc.ClientConn, error) {
	address := net.JoinHostPort(n.Primary().String(), strconv.Itoa(a.Port))
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.connections[n.Name]; ok {
		if c.address == address {
			return c.client, nil
		}
		c.client.Close()
		delete(a.connections, n.Name)
	}
	client, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(a.Credentials(n.Name)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}, MinConnectTimeout: time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return nil, fmt.Errorf("connecting to node %s: %w", n.Name, err)
	}
	if a.connections == nil {
		a.connections = map[string]connection{}
	}
	a.connections[n.Name] = connection{address, client}
	return client, nil
}

// Client gives the API of a node's agent, over the connection that is kept.
func (a *Announcer) Client(n datapath.Node) (fairleadv1.AgentServiceClient, error) {
	c, err := a.connect(n)
	if err != nil {
		return nil, err
	}
	return fairleadv1.NewAgentServiceClient(c), nil
}

// Prepare opens the connection to a node ahead of its first use.
func (a *Announcer) Prepare(n datapath.Node) {
	if c, err := a.connect(n); err == nil {
		c.Connect()
	}
}

// Forget closes the connection to a node that went.
func (a *Announcer) Forget(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c, ok := a.connections[name]; ok {
		c.client.Close()
		delete(a.connections, name)
	}
}

// Announce tells all nodes at once and returns when they know; a node that is not connected is waited for a second. A node that did not answer learns of
// the endpoint from its CiliumEndpoint; a pod there may see its first packet dropped, so it is counted and logged.
func (a *Announcer) Announce(ctx context.Context, nodes []datapath.Node, request *fairleadv1.AnnounceEndpointRequest) {
	var wait sync.WaitGroup
	for _, n := range nodes {
		wait.Go(func() {
			c, err := a.connect(n)
			if err == nil {
				state, timeout := c.GetState(), unreachableTimeout
				if state == connectivity.Ready {
					timeout = busyTimeout
				}
				ctx, cancel := context.WithTimeout(ctx, timeout)
				defer cancel()
				// A node that is known to be down is not waited for.
				_, err = fairleadv1.NewAgentServiceClient(c).AnnounceEndpoint(ctx, request, grpc.WaitForReady(state != connectivity.TransientFailure))
			}
			if err != nil {
				a.Failed.Add(1)
				a.Log.Warn("a node was not told of an endpoint in time", "node", n.Name, "pod", request.Namespace+"/"+request.PodName, "error", err)
				return
			}
			a.Sent.Add(1)
		})
	}
	wait.Wait()
}

// Close closes all connections.
func (a *Announcer) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.connections {
		c.client.Close()
	}
	clear(a.connections)
}
