package relay

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// peerStates are the states of connections to agents, as Hubble Relay's own metric names them; each has a series always,
// so that a rule can compare with 0.
var peerStates = map[connectivity.State]string{
	connectivity.Idle: "IDLE", connectivity.Connecting: "CONNECTING", connectivity.Ready: "READY",
	connectivity.TransientFailure: "TRANSIENT_FAILURE", connectivity.Shutdown: "SHUTDOWN",
}

// noConnection is the state of a peer to which no connection could even be tried.
const noConnection = "NIL_CONNECTION"

var (
	peerStatusDesc = prometheus.NewDesc("hubble_relay_pool_peer_connection_status",
		"Number of agents by the state of the relay's connection to them: READY is connected, TRANSIENT_FAILURE cannot be reached.",
		[]string{"status"}, nil)
	versionDesc = prometheus.NewDesc("cilium_version", "1, with the relay's version.", []string{"version"}, nil)
)

// metrics of a relay. Requests have the names of gRPC's own servers, as Hubble Relay has them.
type metrics struct {
	forwarded atomic.Uint64
	lost      *prometheus.CounterVec
	failures  *prometheus.CounterVec
	started   *prometheus.CounterVec
	handled   *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		lost: counter("fairlead_relay_flows_lost_total",
			"Flows that agents told the relay's clients they had lost, by where; two clients that follow hear of a loss twice.", "source"),
		failures: counter("fairlead_relay_peer_failures_total", "Questions that an agent did not answer.", "peer"),
		started:  counter("grpc_server_started_total", "Requests begun.", "grpc_type", "grpc_service", "grpc_method"),
		handled:  counter("grpc_server_handled_total", "Requests ended.", "grpc_type", "grpc_service", "grpc_method", "grpc_code"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "grpc_server_handling_seconds", Help: "How long requests took; one that follows flows counts when it ends.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"grpc_type", "grpc_service", "grpc_method"}),
	}
	for _, source := range []flowpb.LostEventSource{
		flowpb.LostEventSource_PERF_EVENT_RING_BUFFER, flowpb.LostEventSource_HUBBLE_RING_BUFFER,
	} {
		m.lost.WithLabelValues(strings.ToLower(source.String()))
	}
	return m
}

func (m *metrics) addLost(lost *flowpb.LostEvent) {
	m.lost.WithLabelValues(strings.ToLower(lost.GetSource().String())).Add(float64(lost.GetNumEventsLost()))
}

// handle counts one request and how long it took.
func (m *metrics) handle(kind, fullMethod string, request func() error) error {
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	m.started.WithLabelValues(kind, service, method).Inc()
	start := time.Now()
	err := request()
	m.seconds.WithLabelValues(kind, service, method).Observe(time.Since(start).Seconds())
	m.handled.WithLabelValues(kind, service, method, status.Code(err).String()).Inc()
	return err
}

// ServerOptions let the gRPC server that the relay is registered on count its requests.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
			err = s.metrics.handle("unary", info.FullMethod, func() error {
				var err error
				answer, err = handler(ctx, request)
				return err
			})
			return answer, err
		}),
		grpc.ChainStreamInterceptor(func(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return s.metrics.handle("server_stream", info.FullMethod, func() error { return handler(service, stream) })
		}),
	}
}

// MetricsHandler serves the relay's metrics for Prometheus at any path.
func (s *Server) MetricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	m := s.metrics
	registry.MustRegister(m.lost, m.failures, m.started, m.handled, m.seconds, connections{s},
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "fairlead_relay_flows_forwarded_total", Help: "Flows sent to the relay's clients.",
		}, func() float64 { return float64(m.forwarded.Load()) }))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// connections tells the state of the connections when it is asked.
type connections struct{ server *Server }

// Describe implements prometheus.Collector.
func (c connections) Describe(out chan<- *prometheus.Desc) {
	out <- peerStatusDesc
	out <- versionDesc
}

// Collect implements prometheus.Collector. A connection that nobody has used is tried, so that the next scrape tells
// whether the agent can be reached.
func (c connections) Collect(out chan<- prometheus.Metric) {
	counts := map[string]int{noConnection: 0}
	for state := range maps.Values(peerStates) {
		counts[state] = 0
	}
	for _, a := range c.server.agents() {
		if a.err != nil {
			counts[noConnection]++
			continue
		}
		state := a.connection.GetState()
		if state == connectivity.Idle {
			a.connection.Connect()
		}
		counts[peerStates[state]]++
	}
	for state, n := range counts {
		out <- prometheus.MustNewConstMetric(peerStatusDesc, prometheus.GaugeValue, float64(n), state)
	}
	out <- prometheus.MustNewConstMetric(versionDesc, prometheus.GaugeValue, 1, c.server.options.Version)
}
