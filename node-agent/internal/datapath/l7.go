package datapath

import (
	"net/netip"
	"time"
)

// EventL7 is a request or response that one of the agent's proxies saw; Event.L7 has it.
const EventL7 EventType = 129

// L7Verdict is what became of a request.
type L7Verdict uint8

// The verdicts.
const (
	L7Forwarded L7Verdict = iota
	L7Dropped
	L7Error
)

// L7 is what a proxy saw. Exactly one of HTTP and DNS is set. Of a response the event's source is the server.
type L7 struct {
	Verdict L7Verdict
	// Latency of a response since its request.
	Latency time.Duration
	HTTP    *L7HTTP
	DNS     *L7DNS
}

// L7HTTP is a request, or a response with its request's method and URL.
type L7HTTP struct {
	Code                  uint32
	Method, URL, Protocol string
	// Headers are names and values in turn.
	Headers []string
}

// L7DNS is a query, or a response with its query.
type L7DNS struct {
	Query      string
	Types      []string
	RCode      uint32
	IPs        []netip.Addr
	CNames     []string
	TTL        uint32
	AnswerKind []string
}
