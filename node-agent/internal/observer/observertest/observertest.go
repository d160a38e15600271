// Package observertest serves synthetic flows over the same wires as the agent does: a Unix socket, and mTLS on loopback.
package observertest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/edges"
	"fairlead.dev/node-agent/internal/flows"
	"fairlead.dev/node-agent/internal/flows/flowtest"
	"fairlead.dev/node-agent/internal/observer"
	"fairlead.dev/node-agent/internal/peer"
)

// Server listens until it is closed.
type Server struct {
	Store *flows.Store
	Peers *peer.Registry
	// Socket is the Unix socket's path; Address is the mTLS listener's.
	Socket, Address string
	// CA, Certificate, Key are PEM files for a client; ServerName is what the server's certificate names.
	CA, Certificate, Key, ServerName string

	grpc []*grpc.Server
}

// Start serves a store from a directory that it fills with socket and certificates.
func Start(directory string, store *flows.Store) (*Server, error) {
	node := store.Node()
	s := &Server{
		Store: store, Peers: &peer.Registry{},
		Socket: filepath.Join(directory, "hubble.sock"), ServerName: peer.ServerName(node.Name, node.Cluster),
		CA: filepath.Join(directory, "ca.crt"), Certificate: filepath.Join(directory, "client.crt"),
		Key: filepath.Join(directory, "client.key"),
	}
	s.Peers.Upsert(peer.ForNode(node.Name, node.Cluster, node.Address))
	s.Peers.Upsert(peer.ForNode("node2", node.Cluster, flowtest.Node2))
	config, err := s.certificates()
	if err != nil {
		return nil, fmt.Errorf("making certificates: %w", err)
	}
	local, err := net.Listen("unix", s.Socket)
	if err != nil {
		return nil, err
	}
	remote, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.Address = remote.Addr().String()
	agent := &agentService{store: store, edges: edges.New(store)}
	for listener, options := range map[net.Listener][]grpc.ServerOption{
		local: nil, remote: {grpc.Creds(credentials.NewTLS(config))},
	} {
		server := grpc.NewServer(options...)
		observer.Register(server, store, s.Peers)
		fairleadv1.RegisterAgentServiceServer(server, agent)
		s.grpc = append(s.grpc, server)
		go func() { _ = server.Serve(listener) }()
	}
	return s, nil
}

// Close stops serving at once.
func (s *Server) Close() {
	for _, server := range s.grpc {
		server.Stop()
	}
}

// agentService has the streams of the agent's own API; GetStatus answers with the node's name, or never when asked to.
type agentService struct {
	fairleadv1.UnimplementedAgentServiceServer
	store *flows.Store
	edges *edges.Aggregator
}

func (a *agentService) GetStatus(context.Context, *fairleadv1.GetStatusRequest) (*fairleadv1.GetStatusResponse, error) {
	stats := a.store.Stats()
	return &fairleadv1.GetStatusResponse{
		NodeName: a.store.Node().Name, ClusterName: a.store.Node().Cluster, FlowsSeen: stats.Seen, FlowsLost: stats.KernelLost,
	}, nil
}

// ListJournal hangs until its caller gives up, so that clients can test their deadlines.
func (a *agentService) ListJournal(
	ctx context.Context, _ *fairleadv1.ListJournalRequest,
) (*fairleadv1.ListJournalResponse, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// ListMaps refuses, so that clients can test how they show an error.
func (a *agentService) ListMaps(context.Context, *fairleadv1.ListMapsRequest) (*fairleadv1.ListMapsResponse, error) {
	return nil, status.Error(codes.FailedPrecondition, "the maps are not pinned")
}

func (a *agentService) WatchEdges(
	request *fairleadv1.WatchEdgesRequest, stream grpc.ServerStreamingServer[fairleadv1.WatchEdgesResponse],
) error {
	return a.edges.WatchEdges(request, stream)
}

func (a *agentService) WatchFlows(
	request *fairleadv1.WatchFlowsRequest, stream grpc.ServerStreamingServer[fairleadv1.WatchFlowsResponse],
) error {
	return a.store.WatchFlows(request, stream)
}

// certificates makes a CA, a server and a client, writes what a client needs, and gives the server's configuration.
func (s *Server) certificates() (*tls.Config, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
			KeyUsage:    x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
	}
	ca := template(1, "test ca")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caRaw, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	issue := func(c *x509.Certificate) (certificate, key []byte, err error) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		raw, err := x509.CreateCertificate(rand.Reader, c, ca, &private.PublicKey, caKey)
		if err != nil {
			return nil, nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		return block("CERTIFICATE", raw), block("PRIVATE KEY", der), err
	}
	serverTemplate := template(2, s.ServerName)
	serverTemplate.DNSNames = []string{s.ServerName}
	certificate, key, err := issue(serverTemplate)
	if err != nil {
		return nil, err
	}
	own, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	clientCertificate, clientKey, err := issue(template(3, "client"))
	if err != nil {
		return nil, err
	}
	for path, content := range map[string][]byte{
		s.CA: block("CERTIFICATE", caRaw), s.Certificate: clientCertificate, s.Key: clientKey,
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, err
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(block("CERTIFICATE", caRaw))
	return &tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13,
	}, nil
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Traffic ingests what the demo shows: the tiefighter lands through the service, the xwing is refused, somebody pings.
func Traffic(store *flows.Store, at time.Time, port uint16) {
	for _, e := range flowtest.Connected(at) {
		store.Ingest(e)
	}
	store.Ingest(flowtest.Allowed(at, port))
	store.Ingest(flowtest.Delivered(at, port, 0x02))
	store.Ingest(flowtest.Answered(at, port))
	for _, e := range flowtest.Denied(at, port) {
		store.Ingest(e)
	}
	world := flowtest.Delivered(at, port, 0x02)
	world.SubType, world.Endpoint, world.Destination, world.DestIdentity = 3, flowtest.TiefighterID, flowtest.World, 2
	world.SourceTranslated = flowtest.Node1
	store.Ingest(world)
	ping := flowtest.Delivered(at, 0, 0)
	ping.Protocol, ping.ICMPType, ping.DestPort, ping.Source = 1, 8, 0, flowtest.Node1
	ping.SourceIdentity = 1
	store.Ingest(ping)
}
