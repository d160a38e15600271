package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestRoutes(t *testing.T) {
	s := httptest.NewServer(routes("ds1"))
	defer s.Close()
	for _, c := range []struct {
		method, path string
		status       int
		has          string
	}{
		{"GET", "/", 200, "ds1"},
		{"GET", "/v1/", 200, "/v1/request-landing"},
		{"POST", "/v1/request-landing", 200, "Ship landed"},
		{"GET", "/v1/request-landing", 200, "Death Star"},
		{"PUT", "/v1/exhaust-port", 503, "Panic: deathstar exploded"},
		{"GET", "/nowhere", 404, ""},
	} {
		req, _ := http.NewRequest(c.method, s.URL+c.path, nil)
		w := httptest.NewRecorder()
		routes("ds1").ServeHTTP(w, req)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.has) {
			t.Errorf("%s %s: %d %q", c.method, c.path, w.Code, w.Body.String())
		}
	}
	if got := request(t.Context(), s.URL+"/v1/request-landing", time.Second); !strings.HasPrefix(got, "200 Ship landed") {
		t.Errorf("landing: %q", got)
	}
}

func TestRequestGivesUp(t *testing.T) {
	hold := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
	defer s.Close()
	defer close(hold)
	if got := request(t.Context(), s.URL, 50*time.Millisecond); got != "no answer within 50ms" {
		t.Errorf("got %q", got)
	}
}
