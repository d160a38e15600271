package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"fairlead.dev/node-agent/internal/datapath/podlink"
	"fairlead.dev/node-agent/internal/endpoints"
	"fairlead.dev/node-agent/internal/ipam"
)

// Endpoints is what the server drives.
type Endpoints interface {
	Reserve(ctx context.Context, r endpoints.Request) (endpoints.Endpoint, error)
	Attach(ctx context.Context, r endpoints.Request, link podlink.Details) (endpoints.Endpoint, error)
	Detach(ctx context.Context, containerID, networkInterface string) error
	ByContainer(containerID, networkInterface string) (endpoints.Endpoint, bool)
	Collect(ctx context.Context, valid map[string]struct{}) error
}

// Server answers the plugin.
type Server struct {
	Endpoints Endpoints
	// Router and Router6 are the node's addresses out of the pods' ranges.
	Router, Router6 netip.Addr
	MTU             func() int
	// Ready tells why pods cannot be attached; nil when they can.
	Ready func() error
	Log   *slog.Logger
}

// requestTimeout is less than the runtime's patience, so that the error is ours.
const requestTimeout = 60 * time.Second

// Listen opens the socket for root only; one that an earlier agent left is replaced.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the socket's directory: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replacing %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protecting %s: %w", path, err)
	}
	return l, nil
}

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: s.Handler(), BaseContext: func(net.Listener) context.Context { return ctx }, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving the CNI plugin: %w", err)
	}
	return nil
}

func (s *Server) reply(e endpoints.Endpoint) Reply {
	out := Reply{Addresses: e.Addresses(), MTU: s.MTU(), HostInterface: e.Link.Interface}
	for _, a := range out.Addresses {
		router := s.Router
		if a.Is6() {
			router = s.Router6
		}
		out.Routers = append(out.Routers, router)
	}
	return out
}

// Handler gives the verbs as HTTP paths.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	verb := func(name string, needsReady bool, do func(context.Context, Request) (Reply, error)) {
		mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
			var request Request
			if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&request); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
			defer cancel()
			var reply Reply
			err := error(nil)
			if needsReady {
				err = s.Ready()
			}
			temporary := err != nil
			start := time.Now()
			if err == nil {
				reply, err = do(ctx, request)
			}
			if err != nil {
				var exhausted *ipam.ExhaustedError
				reply = Reply{Error: err.Error(), Temporary: temporary || errors.As(err, &exhausted)}
				s.Log.Warn("a CNI request failed", "verb", name, "pod", request.Namespace+"/"+request.PodName, "container", request.ContainerID, "error", err)
			} else if name != "status" {
				s.Log.Debug("CNI request", "verb", name, "pod", request.Namespace+"/"+request.PodName, "took", time.Since(start))
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(reply)
		})
	}
	verb("reserve", true, func(ctx context.Context, r Request) (Reply, error) {
		e, err := s.Endpoints.Reserve(ctx, r.Request)
		return s.reply(e), err
	})
	verb("attach", true, func(ctx context.Context, r Request) (Reply, error) {
		e, err := s.Endpoints.Attach(ctx, r.Request, r.Link)
		return s.reply(e), err
	})
	verb("detach", false, func(ctx context.Context, r Request) (Reply, error) {
		return Reply{}, s.Endpoints.Detach(ctx, r.ContainerID, r.NetworkInterface)
	})
	verb("check", false, func(_ context.Context, r Request) (Reply, error) {
		e, attached := s.Endpoints.ByContainer(r.ContainerID, r.NetworkInterface)
		if !attached {
			return Reply{}, fmt.Errorf("container %s has no endpoint on this node", r.ContainerID)
		}
		return s.reply(e), nil
	})
	verb("collect", false, func(ctx context.Context, r Request) (Reply, error) {
		valid := make(map[string]struct{}, len(r.Valid))
		for _, v := range r.Valid {
			valid[v] = struct{}{}
		}
		return Reply{}, s.Endpoints.Collect(ctx, valid)
	})
	verb("status", true, func(context.Context, Request) (Reply, error) { return Reply{}, nil })
	return mux
}
