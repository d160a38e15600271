// Package relay answers for all nodes of the cluster: it asks every agent and merges what they say, as Hubble Relay does.
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"fairlead.dev/node-agent/internal/observer"
	"fairlead.dev/node-agent/internal/peer"
)

// answerWithin bounds unary questions to one agent: a silent node must not make the cluster's answer late.
const answerWithin = 3 * time.Second

// Options of a relay.
type Options struct {
	// Peers to ask; read anew with every request.
	Peers *peer.Registry
	// TLS is the client's side: its certificate and the CA. The server name is set per peer.
	TLS     *tls.Config
	Version string
}

// Server implements observer.Observer for the cluster.
type Server struct {
	observerpb.UnimplementedObserverServer
	options Options
	started time.Time
	metrics *metrics

	mu          sync.Mutex
	connections map[peer.Peer]*grpc.ClientConn
}

// NewServer makes a relay; Close it when done.
func NewServer(options Options) *Server {
	return &Server{options: options, started: time.Now(), metrics: newMetrics(), connections: map[peer.Peer]*grpc.ClientConn{}}
}

// Register puts the relay and grpc.health on a gRPC server.
func (s *Server) Register(server *grpc.Server) {
	observerpb.RegisterObserverServer(server, s)
	observer.RegisterHealth(server)
}

// Close ends the connections to all agents.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, connection := range s.connections {
		_ = connection.Close()
		delete(s.connections, p)
	}
}

// agent is one peer to ask.
type agent struct {
	peer.Peer
	connection *grpc.ClientConn
	client     observerpb.ObserverClient
	err        error
}

// agents of now; connections to peers that are gone are closed.
func (s *Server) agents() []agent {
	peers := s.options.Peers.Peers()
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, connection := range s.connections {
		if !slices.Contains(peers, p) {
			_ = connection.Close()
			delete(s.connections, p)
			s.metrics.failures.DeleteLabelValues(p.Name)
		}
	}
	var agents []agent
	for _, p := range peers {
		connection, ok := s.connections[p]
		if !ok {
			config := s.options.TLS.Clone()
			config.ServerName = p.ServerName
			var err error
			connection, err = grpc.NewClient("passthrough:"+p.Address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
			if err != nil {
				agents = append(agents, agent{Peer: p, err: fmt.Errorf("connecting to %s: %w", p.Name, err)})
				continue
			}
			s.connections[p] = connection
		}
		agents = append(agents, agent{Peer: p, connection: connection, client: observerpb.NewObserverClient(connection)})
	}
	return agents
}

// answer is what one agent said.
type answer[T any] struct {
	agent agent
	value T
	err   error
}

// askAll asks all agents at once, in the order of their names.
func askAll[T any](ctx context.Context, s *Server, ask func(context.Context, observerpb.ObserverClient) (T, error)) []answer[T] {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	agents := s.agents()
	answers := make([]answer[T], len(agents))
	var wait sync.WaitGroup
	for i, a := range agents {
		answers[i] = answer[T]{agent: a, err: a.err}
		if a.err == nil {
			wait.Go(func() {
				if answers[i].value, answers[i].err = ask(ctx, a.client); answers[i].err != nil {
					s.metrics.failures.WithLabelValues(a.Name).Inc()
				}
			})
		}
	}
	wait.Wait()
	return answers
}

// ServerStatus sums all nodes up and names those that did not answer.
func (s *Server) ServerStatus(
	ctx context.Context, request *observerpb.ServerStatusRequest,
) (*observerpb.ServerStatusResponse, error) {
	sum := &observerpb.ServerStatusResponse{
		Version: strings.TrimSpace("fairlead-relay " + s.options.Version), UptimeNs: uint64(time.Since(s.started)),
	}
	var connected uint32
	for _, a := range askAll(ctx, s, func(ctx context.Context, c observerpb.ObserverClient) (*observerpb.ServerStatusResponse, error) {
		return c.ServerStatus(ctx, request)
	}) {
		if a.err != nil {
			sum.UnavailableNodes = append(sum.UnavailableNodes, a.agent.Name)
			continue
		}
		connected++
		sum.NumFlows += a.value.GetNumFlows()
		sum.MaxFlows += a.value.GetMaxFlows()
		sum.SeenFlows += a.value.GetSeenFlows()
		sum.FlowsRate += a.value.GetFlowsRate()
	}
	sum.NumConnectedNodes = wrapperspb.UInt32(connected)
	sum.NumUnavailableNodes = wrapperspb.UInt32(uint32(len(sum.UnavailableNodes)))
	return sum, nil
}

// GetNodes lists all nodes with their figures.
func (s *Server) GetNodes(ctx context.Context, _ *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	response := &observerpb.GetNodesResponse{}
	for _, a := range askAll(ctx, s, func(ctx context.Context, c observerpb.ObserverClient) (*observerpb.ServerStatusResponse, error) {
		return c.ServerStatus(ctx, &observerpb.ServerStatusRequest{})
	}) {
		node := &observerpb.Node{
			Name: a.agent.Name, Address: a.agent.Address, State: relaypb.NodeState_NODE_UNAVAILABLE,
			Tls: &observerpb.TLS{Enabled: true, ServerName: a.agent.ServerName},
		}
		if a.err == nil {
			node.State, node.Version, node.UptimeNs = relaypb.NodeState_NODE_CONNECTED, a.value.GetVersion(), a.value.GetUptimeNs()
			node.NumFlows, node.MaxFlows, node.SeenFlows = a.value.GetNumFlows(), a.value.GetMaxFlows(), a.value.GetSeenFlows()
		}
		response.Nodes = append(response.Nodes, node)
	}
	return response, nil
}

// GetNamespaces is the union of what the nodes have seen.
func (s *Server) GetNamespaces(
	ctx context.Context, request *observerpb.GetNamespacesRequest,
) (*observerpb.GetNamespacesResponse, error) {
	seen := map[string]bool{}
	response := &observerpb.GetNamespacesResponse{}
	for _, a := range askAll(ctx, s, func(ctx context.Context, c observerpb.ObserverClient) (*observerpb.GetNamespacesResponse, error) {
		return c.GetNamespaces(ctx, request)
	}) {
		for _, n := range a.value.GetNamespaces() {
			if name := n.GetCluster() + "/" + n.GetNamespace(); !seen[name] {
				seen[name] = true
				response.Namespaces = append(response.Namespaces, n)
			}
		}
	}
	slices.SortFunc(response.Namespaces, func(a, b *observerpb.Namespace) int {
		return strings.Compare(a.GetCluster()+"/"+a.GetNamespace(), b.GetCluster()+"/"+b.GetNamespace())
	})
	return response, nil
}

// GetFlows merges the nodes' flows. Without follow they come in order of time; with follow as they arrive, because waiting
// for the slowest node would delay what the others see. Nodes that cannot be asked are told as a status event.
func (s *Server) GetFlows(request *observerpb.GetFlowsRequest, stream observerpb.Observer_GetFlowsServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	agents := s.agents()
	type item struct {
		response *observerpb.GetFlowsResponse
		err      error
		from     agent
	}
	items := make(chan item, 256)
	forward := func(response *observerpb.GetFlowsResponse) error {
		if err := stream.Send(response); err != nil {
			return err
		}
		if lost := response.GetLostEvents(); lost != nil {
			s.metrics.addLost(lost)
		} else if response.GetFlow() != nil {
			s.metrics.forwarded.Add(1)
		}
		return nil
	}
	var readers sync.WaitGroup
	for _, a := range agents {
		readers.Go(func() {
			send := func(i item) {
				select {
				case items <- i:
				case <-ctx.Done():
				}
			}
			if a.err != nil {
				send(item{err: a.err, from: a})
				return
			}
			flows, err := a.client.GetFlows(ctx, request)
			for err == nil {
				var response *observerpb.GetFlowsResponse
				if response, err = flows.Recv(); err == nil {
					send(item{response: response, from: a})
				}
			}
			send(item{err: err, from: a})
		})
	}
	go func() { readers.Wait(); close(items) }()

	var gathered []*observerpb.GetFlowsResponse
	for i := range items {
		switch {
		case i.err == nil && request.GetFollow():
			if err := forward(i.response); err != nil {
				return err
			}
		case i.err == nil:
			gathered = append(gathered, i.response)
		case status.Code(i.err) == codes.InvalidArgument:
			return i.err
		case !errors.Is(i.err, io.EOF) && ctx.Err() == nil:
			s.metrics.failures.WithLabelValues(i.from.Name).Inc()
			if err := stream.Send(unavailable(i.from.Name, i.err)); err != nil {
				return err
			}
		}
	}
	if err := stream.Context().Err(); err != nil {
		return err
	}
	for _, response := range inOrder(gathered, request) {
		if err := forward(response); err != nil {
			return err
		}
	}
	return nil
}

// inOrder sorts by time and keeps as many flows as were asked for; lost events do not count as flows.
func inOrder(all []*observerpb.GetFlowsResponse, request *observerpb.GetFlowsRequest) []*observerpb.GetFlowsResponse {
	slices.SortStableFunc(all, func(a, b *observerpb.GetFlowsResponse) int {
		return a.GetTime().AsTime().Compare(b.GetTime().AsTime())
	})
	surplus := -int(request.GetNumber())
	for _, r := range all {
		if r.GetFlow() != nil {
			surplus++
		}
	}
	if request.GetNumber() == 0 || surplus <= 0 {
		return all
	}
	// Oldest first or, from a time on, the first ones are wanted; otherwise the newest.
	fromStart := !request.GetFirst() && request.GetSince() == nil
	if !fromStart {
		slices.Reverse(all)
	}
	kept := slices.DeleteFunc(all, func(r *observerpb.GetFlowsResponse) bool {
		if r.GetFlow() == nil || surplus == 0 {
			return false
		}
		surplus--
		return true
	})
	if !fromStart {
		slices.Reverse(kept)
	}
	return kept
}

func unavailable(node string, err error) *observerpb.GetFlowsResponse {
	return &observerpb.GetFlowsResponse{
		Time: timestamppb.Now(), NodeName: node,
		ResponseTypes: &observerpb.GetFlowsResponse_NodeStatus{NodeStatus: &relaypb.NodeStatusEvent{
			StateChange: relaypb.NodeState_NODE_ERROR, NodeNames: []string{node}, Message: err.Error(),
		}},
	}
}
