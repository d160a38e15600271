package datapath

import "fmt"

// Problem is an error that says what happened, why, and what to do about it.
type Problem struct {
	// Code is stable, e.g. "kernel.no-btf".
	Code, What, Why, Fix string
	// Cause is the error of the system, if there was one.
	Cause error
}

// Error gives the whole text on one line.
func (p *Problem) Error() string {
	text := fmt.Sprintf("%s: %s %s %s", p.Code, p.What, p.Why, p.Fix)
	if p.Cause != nil {
		text += " (" + p.Cause.Error() + ")"
	}
	return text
}

// Unwrap gives the system's error.
func (p *Problem) Unwrap() error { return p.Cause }
