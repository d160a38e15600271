//go:build js && wasm

// Command policy-wasm is the policy engine for the console: it puts `fairleadPolicy(function, request)`, which takes and
// gives JSON texts, into the JavaScript global scope and stays. An error comes back as an Error object.
package main

import (
	"syscall/js"

	"fairlead.dev/node-agent/policy"
)

func main() {
	js.Global().Set("fairleadPolicy", js.FuncOf(func(_ js.Value, arguments []js.Value) any {
		if len(arguments) != 2 || arguments[0].Type() != js.TypeString || arguments[1].Type() != js.TypeString {
			return js.Global().Get("Error").New("the policy engine takes a function's name and a request, both text")
		}
		answer, err := policy.Call(arguments[0].String(), []byte(arguments[1].String()))
		if err != nil {
			return js.Global().Get("Error").New(err.Error())
		}
		return string(answer)
	}))
	select {}
}
