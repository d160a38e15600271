package config

import (
	"reflect"
	"sort"
	"strings"
)

// Keys lists the paths of all values that this agent knows, e.g. bpf.masquerade. A list of values is one value.
func Keys() []string {
	keys := keysOf(reflect.TypeFor[Config](), "")
	sort.Strings(keys)
	return keys
}

func keysOf(t reflect.Type, before string) []string {
	var keys []string
	for field := range fieldsOf(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case name == "" && field.Anonymous:
			keys = append(keys, keysOf(inner, before)...)
		case name == "":
		case inner.Kind() == reflect.Struct:
			keys = append(keys, keysOf(inner, before+name+".")...)
		default:
			keys = append(keys, before+name)
		}
	}
	return keys
}

func fieldsOf(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}
