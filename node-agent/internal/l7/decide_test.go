package l7

import (
	"regexp"
	"testing"

	"fairlead.dev/node-agent/policy"
)

func TestParseQuestion(t *testing.T) {
	for text, valid := range map[string]bool{
		"GET /": true, "get http://web/a?b=c": true, "DNS example.com": true, "GET": false, "": false, "GET a b": false, "GET http://[::1": false,
	} {
		if q, err := ParseQuestion(text); (err == nil) != valid {
			t.Errorf("%q: %+v, %v", text, q, err)
		}
	}
}

func TestDecideIsTheProxysJudgement(t *testing.T) {
	answer := policy.AnswerL7{HTTP: []policy.AttributedHTTP{{
		HTTPRule: policy.HTTPRule{Method: regexp.MustCompile("^GET$"), Path: regexp.MustCompile("^/public/.*$")}, Rule: 7,
	}}}
	for text, want := range map[string]bool{
		"GET http://web/public/a": true, "POST http://web/public/a": false, "GET /private": false, "GET /public/../private": false,
	} {
		q, err := ParseQuestion(text)
		if err != nil {
			t.Fatal(err)
		}
		rule, allowed := Decide(answer, q)
		if allowed != want || allowed && rule != 7 {
			t.Errorf("%s: allowed %v by rule %d", text, allowed, rule)
		}
	}
	open := policy.AnswerL7{Open: true, Rule: 3}
	if rule, allowed := Decide(open, Question{Name: "example.com"}); !allowed || rule != 3 {
		t.Errorf("an open port: %v by %d", allowed, rule)
	}
	if _, allowed := Decide(policy.AnswerL7{}, Question{Name: "example.com"}); allowed {
		t.Error("a name that no rule has is allowed")
	}
}
