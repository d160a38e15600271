package services

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Health answers load balancers: one port per service with externalTrafficPolicy Local (healthCheckNodePort), which says
// whether this node has an endpoint, and one for the node as a whole. Both are asked by either family. Who asks by one is told
// of that family's endpoints: its clients are the ones that will come.
type Health struct {
	mu    sync.Mutex
	ports map[Key]*healthPort
	log   *slog.Logger
	// healthy tells whether services are in step; nil is yes.
	healthy func() bool
	ctx     context.Context
	updated time.Time
}

type healthPort struct {
	port   uint16
	local  PerFamily
	cancel context.CancelFunc
}

// NewHealth makes a server that listens where services say, until ctx ends.
func NewHealth(ctx context.Context, healthy func() bool, log *slog.Logger) *Health {
	if healthy == nil {
		healthy = func() bool { return true }
	}
	return &Health{ports: map[Key]*healthPort{}, healthy: healthy, ctx: ctx, log: log, updated: time.Now()}
}

// set makes a service's port what it should be; 0 is none.
func (h *Health) set(key Key, port uint16, local PerFamily) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.updated = time.Now()
	p := h.ports[key]
	if p != nil && p.port != port {
		p.cancel()
		delete(h.ports, key)
		p = nil
	}
	if port == 0 {
		return
	}
	if p == nil {
		ctx, cancel := context.WithCancel(h.ctx)
		p = &healthPort{port: port, cancel: cancel}
		h.ports[key] = p
		go h.listen(ctx, fmt.Sprintf(":%d", port), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, key) }))
	}
	p.local = local
}

func (h *Health) answer(w http.ResponseWriter, r *http.Request, key Key) {
	h.mu.Lock()
	local := 0
	if p := h.ports[key]; p != nil {
		local = p.local.of(askedBySix(r))
	}
	h.mu.Unlock()
	healthy := h.healthy()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", fmt.Sprint(local))
	if local == 0 || !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"service": map[string]string{"namespace": key.Namespace, "name": key.Name}, "localEndpoints": local, "serviceProxyHealthy": healthy})
}

// askedBySix tells whether a request came to an address of IPv6.
func askedBySix(r *http.Request) bool {
	at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && at.AddrPort().Addr().Unmap().Is6()
}

// ServeNode answers on the port that asks about the node as a whole (kube-proxy's 10256), until the context ends.
func (h *Health) ServeNode(address string) {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		updated := h.updated
		h.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !h.healthy() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"lastUpdated": updated.UTC(), "currentTime": time.Now().UTC(), "nodeEligible": true})
	}
	mux.HandleFunc("GET /healthz", answer)
	mux.HandleFunc("GET /livez", answer)
	h.listen(h.ctx, address, mux)
}

// listen serves until ctx ends; a port that is taken is tried again.
func (h *Health) listen(ctx context.Context, address string, handler http.Handler) {
	for said := false; ctx.Err() == nil; {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
			stop := context.AfterFunc(ctx, func() { _ = server.Close() })
			err = server.Serve(listener)
			stop()
		}
		if ctx.Err() != nil {
			return
		}
		if !said {
			h.log.Warn("the health of services cannot be asked for; trying again", "at", address, "error", err)
			said = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
}
