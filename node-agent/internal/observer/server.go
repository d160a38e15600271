// Package observer serves flows as Hubble's observer does, so that the stock hubble client, Hubble UI and Relay work.
package observer

import (
	"context"
	"sort"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/peer"
)

// healthNames are the services that health checks ask for; the second is the one of the hubble client.
var healthNames = []string{"", "hubble.server.Observer", "observer.Observer", "peer.Peer"}

// Server implements observer.Observer for one node.
type Server struct {
	observerpb.UnimplementedObserverServer
	store *flows.Store
	peers *peer.Registry
}

// NewServer makes the service. peers may be nil: then only this node is listed.
func NewServer(store *flows.Store, peers *peer.Registry) *Server {
	return &Server{store: store, peers: peers}
}

// Register puts observer.Observer, peer.Peer and grpc.health on a gRPC server. It returns the health service, whose
// Shutdown tells clients that this server is going.
func Register(server *grpc.Server, store *flows.Store, peers *peer.Registry) *health.Server {
	if peers == nil {
		peers = &peer.Registry{}
	}
	observerpb.RegisterObserverServer(server, NewServer(store, peers))
	peerpb.RegisterPeerServer(server, peer.NewServer(peers))
	return RegisterHealth(server)
}

// RegisterHealth puts grpc.health on a server, under the names that Hubble's clients ask for.
func RegisterHealth(server *grpc.Server) *health.Server {
	checks := health.NewServer()
	for _, name := range healthNames {
		checks.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
	}
	healthpb.RegisterHealthServer(server, checks)
	return checks
}

// GetFlows streams what matches the request.
func (s *Server) GetFlows(request *observerpb.GetFlowsRequest, stream observerpb.Observer_GetFlowsServer) error {
	return s.store.Query(stream.Context(), request, flows.SendFunc(stream.Send))
}

// GetAgentEvents ends at once, or with follow when the client goes: this agent keeps no such events.
func (s *Server) GetAgentEvents(
	request *observerpb.GetAgentEventsRequest, stream observerpb.Observer_GetAgentEventsServer,
) error {
	return noEvents(stream.Context(), request)
}

// GetDebugEvents ends at once, or with follow when the client goes: this datapath has no such events.
func (s *Server) GetDebugEvents(
	request *observerpb.GetDebugEventsRequest, stream observerpb.Observer_GetDebugEventsServer,
) error {
	return noEvents(stream.Context(), request)
}

type eventsRequest interface {
	GetFirst() bool
	GetFollow() bool
	GetUntil() *timestamppb.Timestamp
}

func noEvents(ctx context.Context, request eventsRequest) error {
	if request.GetFirst() && request.GetFollow() {
		return status.Error(codes.InvalidArgument, "first cannot be specified with follow")
	}
	if request.GetFollow() && request.GetUntil() == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// ServerStatus tells how much is held and was seen.
func (s *Server) ServerStatus(context.Context, *observerpb.ServerStatusRequest) (*observerpb.ServerStatusResponse, error) {
	stats, node := s.store.Stats(), s.store.Node()
	return &observerpb.ServerStatusResponse{
		NumFlows: stats.Held, MaxFlows: stats.Capacity, SeenFlows: stats.Seen,
		UptimeNs: uint64(time.Since(node.Started)), Version: version(node), FlowsRate: stats.PerSecond,
	}, nil
}

func version(node flows.NodeInfo) string {
	if node.Version == "" {
		return "fairlead-agent"
	}
	return "fairlead-agent " + node.Version
}

// GetNodes lists this node with its figures, and its peers, whose state only a relay knows.
func (s *Server) GetNodes(context.Context, *observerpb.GetNodesRequest) (*observerpb.GetNodesResponse, error) {
	stats, node := s.store.Stats(), s.store.Node()
	self := peer.ForNode(node.Name, node.Cluster, node.Address)
	response := &observerpb.GetNodesResponse{Nodes: []*observerpb.Node{{
		Name: self.Name, Version: version(node), Address: self.Address, State: relaypb.NodeState_NODE_CONNECTED,
		Tls:      &observerpb.TLS{Enabled: true, ServerName: self.ServerName},
		UptimeNs: uint64(time.Since(node.Started)), NumFlows: stats.Held, MaxFlows: stats.Capacity, SeenFlows: stats.Seen,
	}}}
	if s.peers == nil {
		return response, nil
	}
	for _, p := range s.peers.Peers() {
		if p.Name == self.Name {
			continue
		}
		response.Nodes = append(response.Nodes, &observerpb.Node{
			Name: p.Name, Address: p.Address, State: relaypb.NodeState_UNKNOWN_NODE_STATE,
			Tls: &observerpb.TLS{Enabled: p.ServerName != "", ServerName: p.ServerName},
		})
	}
	return response, nil
}

// GetNamespaces lists the namespaces seen in flows of the last hour, sorted.
func (s *Server) GetNamespaces(
	context.Context, *observerpb.GetNamespacesRequest,
) (*observerpb.GetNamespacesResponse, error) {
	names := s.store.Namespaces()
	sort.Strings(names)
	response := &observerpb.GetNamespacesResponse{}
	for _, name := range names {
		response.Namespaces = append(response.Namespaces, &observerpb.Namespace{
			Cluster: s.store.Node().Cluster, Namespace: name,
		})
	}
	return response, nil
}
