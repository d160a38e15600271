package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	fairleadv1 "fairlead.dev/node-agent/api/fairlead/v1"
	"fairlead.dev/node-agent/internal/api"
	"fairlead.dev/node-agent/internal/metrics"
	"fairlead.dev/node-agent/internal/observer"
)

// healthAddress is where probes ask; loopback only.
const healthAddress = "127.0.0.1:9879"

// hubblePort gives the port of a listen address; 4244 where it has none.
func hubblePort(address string) int {
	if _, text, err := net.SplitHostPort(address); err == nil {
		if port, err := strconv.Atoi(text); err == nil && port > 0 {
			return port
		}
	}
	return 4244
}

// serveHTTP serves until ctx ends.
func (a *agent) serveHTTP(ctx context.Context, name, address string, handler http.Handler) error {
	return serveHTTP(ctx, name, address, handler, func(err error) { a.components.fail(name, err, "Restart the agent.") })
}

// serveHTTP serves until ctx ends; failed is told when it ends before.
func serveHTTP(ctx context.Context, name, address string, handler http.Handler, failed func(error)) error {
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening for %s: %w", name, err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	go func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			failed(err)
		}
	}()
	return nil
}

// serveHealth answers the kubelet's probes.
func (a *agent) serveHealth(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if !a.isReady() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ready": a.isReady(), "components": a.components.list()})
	})
	return a.serveHTTP(ctx, "health", healthAddress, mux)
}

// serveUnix serves gRPC on a socket that only root may open.
func (a *agent) serveUnix(path string, register func(*grpc.Server)) (stop func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the socket's directory: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replacing %s: %w", path, err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("protecting %s: %w", path, err)
	}
	server := grpc.NewServer()
	register(server)
	go func() { _ = server.Serve(listener) }()
	return server.Stop, nil
}

func (a *agent) agentSocket() string { return filepath.Join(a.RunDirectory, "agent.sock") }

// serveEarly answers `status` before anything else works; the function that it returns ends that, once.
func (a *agent) serveEarly(ctx context.Context) (func(), error) {
	stop, err := a.serveUnix(a.agentSocket(), func(s *grpc.Server) {
		fairleadv1.RegisterAgentServiceServer(s, &api.Service{Agent: a.api, Local: true})
	})
	if err != nil {
		return nil, err
	}
	once := sync.OnceFunc(stop)
	context.AfterFunc(ctx, once)
	return once, nil
}

// serveHubble serves flows and the agent's own service on the sockets and, with certificates, on the network.
func (a *agent) serveHubble(ctx context.Context, s *serving, stopEarly func()) error {
	stopEarly()
	for _, path := range []string{a.agentSocket(), a.HubbleSocket} {
		stop, err := a.serveUnix(path, func(server *grpc.Server) {
			fairleadv1.RegisterAgentServiceServer(server, &api.Service{Agent: a.api, Local: true})
			observer.Register(server, s.parts.Flows, a.peers)
		})
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, stop)
	}
	if !*a.config.Hubble.Enabled {
		a.components.set("hubble", api.StateOff, "hubble.enabled is false; new pods are not announced to other nodes", "")
		return nil
	}
	go a.serveNetwork(ctx, s)
	return nil
}

// serveNetwork waits for certificates, and serves then.
func (a *agent) serveNetwork(ctx context.Context, s *serving) {
	for ctx.Err() == nil {
		if err := a.tls.Check(); err != nil {
			a.components.set("hubble", api.StateDegraded, "no flows over the network, and new pods are not announced: "+err.Error(),
				"Create Secret fairlead-tls (the console's installation does).")
			_ = pause(ctx, 2*time.Second)
			continue
		}
		var listen net.ListenConfig
		listener, err := listen.Listen(ctx, "tcp", a.config.Hubble.ListenAddress)
		if err != nil {
			a.components.set("hubble", api.StateDegraded, err.Error(), "Free the port on the node, or change hubble.listenAddress.")
			_ = pause(ctx, 5*time.Second)
			continue
		}
		server := grpc.NewServer(grpc.Creds(a.tls.Server()), grpc.InitialWindowSize(1<<20), grpc.InitialConnWindowSize(4<<20),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
		fairleadv1.RegisterAgentServiceServer(server, &api.Service{Agent: a.api})
		observer.Register(server, s.parts.Flows, a.peers)
		stop := context.AfterFunc(ctx, server.Stop)
		a.components.ok("hubble", "mTLS on "+a.config.Hubble.ListenAddress)
		err = server.Serve(listener)
		stop()
		if err != nil && ctx.Err() == nil {
			a.components.set("hubble", api.StateDegraded, err.Error(), "See the agent's log.")
			_ = pause(ctx, time.Second)
		}
	}
}

// serveMetrics serves Prometheus.
func (a *agent) serveMetrics(ctx context.Context) {
	if !*a.config.Prometheus.Enabled {
		a.components.set("prometheus", api.StateOff, "prometheus.enabled is false", "")
		return
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&api.Collector{Agent: a.api})
	var flowMetrics sync.Once
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if p := a.api.Parts.Load(); p != nil {
			flowMetrics.Do(func() { registry.MustRegister(metrics.NewCollector(p.Flows)) })
		}
		handler.ServeHTTP(w, r)
	})
	address := ":" + strconv.Itoa(a.config.Prometheus.Port)
	if err := a.serveHTTP(ctx, "prometheus", address, mux); err != nil {
		a.components.set("prometheus", api.StateDegraded, err.Error(), "Free the port on the node, or change prometheus.port.")
		return
	}
	a.components.ok("prometheus", address)
}
