package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// object is a JSON object with the order of its keys.
type object struct {
	keys   []string
	values map[string]any
}

// readTree reads one JSON value into object, []any, string, json.Number, bool or nil. duplicate is called with the path of
// every key that is there twice: which of the two counts would be a matter of the reader.
func readTree(document []byte, duplicate func(path string)) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	tree, err := readValue(decoder, "", duplicate)
	if err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document")
	}
	return tree, nil
}

func readValue(decoder *json.Decoder, path string, duplicate func(path string)) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	delimiter, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	switch delimiter {
	case '{':
		out := &object{values: make(map[string]any)}
		for decoder.More() {
			token, err := decoder.Token()
			if err != nil {
				return nil, err
			}
			key := token.(string) // A JSON object's key is a string, or Token fails.
			at := child(path, key)
			value, err := readValue(decoder, at, duplicate)
			if err != nil {
				return nil, err
			}
			if _, there := out.values[key]; there {
				duplicate(at)
			} else {
				out.keys = append(out.keys, key)
			}
			out.values[key] = value
		}
		_, err := decoder.Token()
		return out, err
	default:
		out := []any{}
		for decoder.More() {
			value, err := readValue(decoder, item(path, len(out)), duplicate)
			if err != nil {
				return nil, err
			}
			out = append(out, value)
		}
		_, err := decoder.Token()
		return out, err
	}
}

// child gives path.key, and path["key"] where the key is not a plain word.
func child(path, key string) string {
	if strings.ContainsAny(key, ".[]/\": ") || key == "" {
		return path + "[" + quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func item(path string, index int) string { return fmt.Sprintf("%s[%d]", path, index) }

func quote(s string) string { return `"` + s + `"` }

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// checkShape compares a tree with the Go type that it will be decoded into, and reports unknown fields, missing fields and
// values of a wrong type, each with its path. It returns false where decoding would fail.
func (c *converter) checkShape(tree any, into reflect.Type, path string) bool {
	if into.Kind() == reflect.Pointer {
		return tree == nil || c.checkShape(tree, into.Elem(), path)
	}
	if reflect.PointerTo(into).Implements(unmarshaler) {
		switch tree.(type) {
		case json.Number, string:
			return true
		}
		return c.wrongType(path, tree, "a number or a text", "")
	}
	switch into.Kind() {
	case reflect.Struct:
		o, ok := tree.(*object)
		if !ok {
			return c.wrongType(path, tree, "an object (indented lines of `name: value`)", "")
		}
		return c.checkStruct(o, into, path)
	case reflect.Slice:
		if tree == nil {
			return true
		}
		list, ok := tree.([]any)
		if !ok {
			return c.wrongType(path, tree, "a list", "Put `- ` before the value.")
		}
		fine := true
		for i, element := range list {
			fine = c.checkShape(element, into.Elem(), item(path, i)) && fine
		}
		return fine
	case reflect.Map:
		if tree == nil {
			return true
		}
		o, ok := tree.(*object)
		if !ok {
			return c.wrongType(path, tree, "an object (indented lines of `name: value`)", "")
		}
		fine := true
		for _, key := range o.keys {
			fine = c.checkShape(o.values[key], into.Elem(), child(path, key)) && fine
		}
		return fine
	case reflect.String:
		if _, ok := tree.(string); !ok {
			fix := ""
			switch v := tree.(type) {
			case json.Number:
				fix = fmt.Sprintf("Write it in quotes: %q.", v.String())
			case bool:
				fix = fmt.Sprintf("Write it in quotes: \"%t\".", v)
			}
			return c.wrongType(path, tree, "a text", fix)
		}
	case reflect.Bool:
		if _, ok := tree.(bool); !ok {
			return c.wrongType(path, tree, "true or false", "")
		}
	case reflect.Int32:
		number, ok := tree.(json.Number)
		if !ok {
			return c.wrongType(path, tree, "a whole number", "Write it without quotes.")
		}
		var value int32
		if json.Unmarshal([]byte(number), &value) != nil {
			return c.wrongType(path, tree, "a whole number between -2147483648 and 2147483647", "")
		}
	}
	return true
}

func (c *converter) wrongType(path string, tree any, want, fix string) bool {
	if fix == "" {
		fix = "Write " + want + "."
	}
	c.fail("wrong-type", path, fmt.Sprintf("must be %s, but is %s", want, describe(tree)),
		"The value would be misread or dropped.", fix)
	return false
}

func describe(tree any) string {
	switch v := tree.(type) {
	case nil:
		return "empty (null)"
	case *object:
		return "an object"
	case []any:
		return "a list"
	case string:
		return fmt.Sprintf("the text %q", v)
	case json.Number:
		return "the number " + v.String()
	default:
		return fmt.Sprintf("%v", v)
	}
}

func (c *converter) checkStruct(o *object, into reflect.Type, path string) bool {
	type fieldInfo struct {
		name     string
		required bool
		of       reflect.Type
	}
	fields := make(map[string]fieldInfo, into.NumField())
	var names []string
	for i := range into.NumField() {
		f := into.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = fieldInfo{name: name, required: !strings.Contains(options, "omit"), of: f.Type}
		names = append(names, name)
	}
	fine := true
	for _, key := range o.keys {
		f, ok := fields[key]
		if !ok {
			c.unknownField(path, key, names)
			continue
		}
		if o.values[key] == nil && !f.required {
			continue // An absent value written as null.
		}
		fine = c.checkShape(o.values[key], f.of, child(path, key)) && fine
	}
	for _, name := range names {
		if _, there := o.values[name]; fields[name].required && !there {
			c.fail("missing-field", child(path, name), "is missing", "Without it the element says nothing.",
				fmt.Sprintf("Add `%s:`.", name))
		}
	}
	return fine
}

func (c *converter) unknownField(path, key string, known []string) {
	what, fix := "unknown field", "Remove it, or correct its name; possible are: "+strings.Join(known, ", ")+"."
	if near := nearest(key, known); near != "" {
		what += ", did you mean " + near + "?"
		fix = fmt.Sprintf("Write `%s`, or remove it.", near)
	}
	c.fail("unknown-field", child(path, key), what,
		"A field that nobody knows is dropped silently, and the policy then says something else than you wrote.", fix)
}

// nearest gives the known name that was probably meant, or "".
func nearest(key string, known []string) string {
	best, distance := "", 1+len(key)/3
	swapped := key
	if rest, ok := strings.CutPrefix(key, "to"); ok {
		swapped = "from" + rest
	} else if rest, ok := strings.CutPrefix(key, "from"); ok {
		swapped = "to" + rest
	}
	for _, name := range known {
		if strings.EqualFold(name, key) || strings.EqualFold(name, swapped) {
			return name
		}
		if d := editDistance(strings.ToLower(key), strings.ToLower(name)); d < distance || (d == distance && best == "") {
			best, distance = name, d
		}
	}
	return best
}

// editDistance counts insertions, deletions and replacements of bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
