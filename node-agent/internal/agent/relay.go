package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"google.golang.org/grpc"
	"k8s.io/client-go/tools/cache"

	ciliumv2 "fairlead.dev/node-agent/api/ciliumio/v2"
	"fairlead.dev/node-agent/internal/certificates"
	"fairlead.dev/node-agent/internal/config"
	"fairlead.dev/node-agent/internal/kubernetes"
	"fairlead.dev/node-agent/internal/nodes"
	"fairlead.dev/node-agent/internal/peer"
	"fairlead.dev/node-agent/internal/relay"
)

// RelayOptions are what the command line gives. Metrics is where Prometheus is answered, unless the configuration has
// prometheus.enabled off; its port is the relay's own, because prometheus.port is one of the nodes.
type RelayOptions struct{ ConfigPath, TLSDirectory, Listen, Metrics, Version string }

// Relay answers for all nodes until ctx ends. It finds them by their CiliumNodes.
func Relay(ctx context.Context, o RelayOptions) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	c, err := config.Load(o.ConfigPath)
	if err != nil {
		return err
	}
	directory := certificates.Open(o.TLSDirectory)
	if err := directory.Check(); err != nil {
		return fmt.Errorf("the relay needs the agents' certificates: %w", err)
	}
	// A pod like any other reaches the API server by its service; the agents' own address of it may be their node's loopback.
	client, err := kubernetes.NewInCluster(kubernetes.Options{Version: o.Version, Log: log})
	if err != nil {
		return err
	}
	peers := &peer.Registry{}
	informer := kubernetes.NewInformer(client, ciliumNodes, "", &ciliumv2.CiliumNode{}, &ciliumv2.CiliumNodeList{}, nil, kubernetes.Handler[*ciliumv2.CiliumNode]{
		Changed: func(_, n *ciliumv2.CiliumNode) {
			if node, ok := nodes.FromCilium(n); ok {
				peers.Upsert(peer.ForNode(node.Name, c.Cluster.Name, node.Primary()))
			}
		},
		Deleted: func(n *ciliumv2.CiliumNode) {
			if node, ok := nodes.FromCilium(n); ok {
				peers.Delete(peer.ForNode(node.Name, c.Cluster.Name, node.Primary()).Name)
			}
		}})
	go informer.Run(ctx)
	// Who listens is taken for ready: not before it knows the nodes.
	if !cache.WaitForCacheSync(ctx.Done(), informer.Synced) {
		return fmt.Errorf("listing the nodes: %w", informer.Err())
	}
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("listening for the relay: %w", err)
	}
	cluster := relay.NewServer(relay.Options{Peers: peers, TLS: directory.ClientConfig(), Version: o.Version})
	defer cluster.Close()
	if *c.Prometheus.Enabled {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", cluster.MetricsHandler())
		if err := serveHTTP(ctx, "the relay's metrics", o.Metrics, mux, func(err error) {
			log.Error("metrics are not served any more", "error", err)
		}); err != nil {
			return err
		}
	}
	server := grpc.NewServer(append(cluster.ServerOptions(), grpc.Creds(directory.Server()))...)
	cluster.Register(server)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	log.Info("relaying", "listen", o.Listen, "metrics", *c.Prometheus.Enabled)
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving the relay: %w", err)
	}
	return nil
}
