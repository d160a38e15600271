package l7

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	// headLimit is the largest head of a message that is looked at, headerLimit the most headers in it.
	headLimit   = 64 << 10
	headerLimit = 256
)

// refusal is a message that two readers could understand differently, or that is no HTTP.
type refusal struct {
	code int
	why  string
}

func (r *refusal) Error() string { return r.why }

func refuse(code int, format string, arguments ...any) error {
	return &refusal{code, fmt.Sprintf(format, arguments...)}
}

// field is one header line; name and value are parts of the head.
type field struct{ name, value string }

// head is the first part of a message, up to and with the empty line.
type head struct {
	// raw is the text as it came.
	raw []byte
	// first is the request line or status line without its end.
	first  string
	fields []field
}

// readHead reads a head strictly: lines end with CR LF, names are tokens followed at once by a colon, no line is continued.
// The lenience of which smuggling is made is refused.
func readHead(in *bufio.Reader) (*head, error) {
	h := &head{raw: make([]byte, 0, 512)}
	for empty := 0; ; {
		start := len(h.raw)
		for {
			part, err := in.ReadSlice('\n')
			h.raw = append(h.raw, part...)
			if len(h.raw) > headLimit {
				return nil, refuse(431, "the head is larger than %d bytes", headLimit)
			}
			if err == nil {
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				if errors.Is(err, io.EOF) && len(h.raw) > 0 {
					err = io.ErrUnexpectedEOF
				}
				return nil, err
			}
		}
		line := h.raw[start:]
		if len(line) < 2 || line[len(line)-2] != '\r' {
			return nil, refuse(400, "a line ends without CR LF")
		}
		line = line[:len(line)-2]
		if bytes.ContainsAny(line, "\r\x00") {
			return nil, refuse(400, "a line has a control character in it")
		}
		if len(line) == 0 {
			if h.first != "" {
				return h, nil
			}
			// One empty line before a request is tolerated, as clients of old send it after a body.
			if empty++; empty > 1 {
				return nil, refuse(400, "empty lines come before the request")
			}
			h.raw = h.raw[:start]
			continue
		}
		if h.first == "" {
			h.first = string(line)
			continue
		}
		if len(h.fields) == headerLimit {
			return nil, refuse(431, "there are more than %d headers", headerLimit)
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || !isToken(line[:colon]) {
			return nil, refuse(400, "a header has no proper name")
		}
		h.fields = append(h.fields, field{name: string(line[:colon]), value: string(trim(line[colon+1:]))})
	}
}

func trim(b []byte) []byte { return bytes.Trim(b, " \t") }

func isToken(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return len(b) > 0
}

// values of a header, in order.
func (h *head) values(name string) []string {
	var out []string
	for _, f := range h.fields {
		if strings.EqualFold(f.name, name) {
			out = append(out, f.value)
		}
	}
	return out
}

// lists tells whether a header with a comma-separated list holds a word.
func (h *head) lists(name, word string) bool {
	for _, f := range h.fields {
		if strings.EqualFold(f.name, name) {
			for part := range strings.SplitSeq(f.value, ",") {
				if strings.EqualFold(strings.Trim(part, " \t"), word) {
					return true
				}
			}
		}
	}
	return false
}

// bytes gives the head to send on: as it came, unless it was changed.
func (h *head) bytes() []byte {
	if h.raw != nil {
		return h.raw
	}
	out := make([]byte, 0, 512)
	out = append(append(out, h.first...), "\r\n"...)
	for _, f := range h.fields {
		out = append(append(append(append(out, f.name...), ": "...), f.value...), "\r\n"...)
	}
	return append(out, "\r\n"...)
}

func (h *head) remove(match func(field) bool) {
	if !slices.ContainsFunc(h.fields, match) {
		return
	}
	h.fields, h.raw = slices.DeleteFunc(h.fields, match), nil
}

func (h *head) add(name, value string) {
	h.fields, h.raw = append(h.fields, field{name, value}), nil
}

// framing says how long a body is.
type framing struct {
	chunked bool
	// length is -1 for a response that ends with its connection.
	length int64
}

func (f framing) none() bool { return !f.chunked && f.length == 0 }

// bodyFraming is strict for both sides: one way to tell the length, or none.
func (h *head) bodyFraming(version11 bool) (framing, bool, error) {
	codings, lengths := h.values("Transfer-Encoding"), h.values("Content-Length")
	switch {
	case len(codings) > 0 && len(lengths) > 0:
		return framing{}, false, refuse(400, "the length is given in two ways")
	case len(codings) > 0:
		if len(codings) != 1 || !strings.EqualFold(codings[0], "chunked") || !version11 {
			return framing{}, false, refuse(400, "the transfer coding is not chunked alone")
		}
		return framing{chunked: true}, true, nil
	case len(lengths) > 1:
		return framing{}, false, refuse(400, "the length is given twice")
	case len(lengths) == 1:
		n, err := strconv.ParseUint(lengths[0], 10, 62)
		if err != nil || lengths[0][0] == '+' {
			return framing{}, false, refuse(400, "the length is no number")
		}
		return framing{length: int64(n)}, true, nil
	}
	return framing{}, false, nil
}

// request is a request's head, understood.
type request struct {
	*head
	method, target string
	// host is the authority that the request is for, path the target as rules see it.
	host, path string
	minor      int
	body       framing
	keepAlive  bool
	upgrade    bool
	expect     bool
}

func parseRequest(h *head) (*request, error) {
	method, rest, ok := strings.Cut(h.first, " ")
	target, version, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !isToken([]byte(method)) || target == "" || strings.Contains(version, " ") || strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return nil, refuse(400, "the request line is not method, target and version")
	}
	r := &request{head: h, method: method, target: target, path: target}
	switch version {
	case "HTTP/1.1":
		r.minor = 1
	case "HTTP/1.0":
	default:
		return nil, refuse(505, "the version %q is not supported", version)
	}
	hosts := h.values("Host")
	if len(hosts) > 1 || len(hosts) == 0 && r.minor == 1 {
		return nil, refuse(400, "there is not exactly one Host")
	}
	if len(hosts) == 1 {
		r.host = hosts[0]
	}
	switch {
	case method == "CONNECT":
		if r.host != "" && !strings.EqualFold(r.host, target) {
			return nil, refuse(400, "target and Host differ")
		}
		r.host = target
	case target == "*" || target[0] == '/':
	default:
		u, err := url.Parse(target)
		if err != nil || u.Host == "" || u.User != nil {
			return nil, refuse(400, "the target is neither a path nor a URL")
		}
		if r.host != "" && !strings.EqualFold(r.host, u.Host) {
			return nil, refuse(400, "target and Host differ")
		}
		r.host, r.path = u.Host, u.RequestURI()
	}
	var err error
	if r.body, _, err = h.bodyFraming(r.minor == 1); err != nil {
		return nil, err
	}
	r.keepAlive = r.minor == 1 && !h.lists("Connection", "close") || r.minor == 0 && h.lists("Connection", "keep-alive")
	r.expect = h.lists("Expect", "100-continue")
	r.upgrade = h.lists("Connection", "upgrade") && len(h.values("Upgrade")) > 0
	if r.upgrade && slices.ContainsFunc(h.values("Upgrade"), func(v string) bool { return strings.Contains(strings.ToLower(v), "h2c") }) {
		// What follows such an upgrade would pass unseen; without it the server answers as before.
		h.remove(func(f field) bool {
			return strings.EqualFold(f.name, "Upgrade") || strings.EqualFold(f.name, "HTTP2-Settings")
		})
		r.upgrade = false
	}
	return r, nil
}

// header gives the values of a header, for the rules.
func (r *request) header(name string) []string { return r.values(name) }

// response is a response's head, understood.
type response struct {
	*head
	code      int
	body      framing
	keepAlive bool
}

func parseResponse(h *head, method string) (*response, error) {
	version, rest, _ := strings.Cut(h.first, " ")
	code, _, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || n < 100 || version != "HTTP/1.1" && version != "HTTP/1.0" {
		return nil, refuse(502, "the server does not answer in HTTP")
	}
	r := &response{head: h, code: n}
	eleven := version == "HTTP/1.1"
	var known bool
	if r.body, known, err = h.bodyFraming(eleven); err != nil {
		return nil, refuse(502, "the server's answer is ambiguous: %v", err)
	}
	switch {
	case method == "HEAD" || n < 200 || n == 204 || n == 304 || method == "CONNECT" && n < 300:
		r.body = framing{}
	case !known:
		r.body.length = -1
	}
	r.keepAlive = r.body.length >= 0 && (eleven && !h.lists("Connection", "close") || !eleven && h.lists("Connection", "keep-alive"))
	return r, nil
}

// canonical is for flows.
func canonical(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }
