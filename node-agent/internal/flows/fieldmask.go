package flows

import (
	"errors"
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// fieldMask is a tree of the fields that a client wants; a leaf stands for the whole field. nil wants everything.
type fieldMask map[string]fieldMask

func newFieldMask(mask *fieldmaskpb.FieldMask) (fieldMask, error) {
	if len(mask.GetPaths()) == 0 {
		return nil, nil
	}
	if !mask.IsValid(&flowpb.Flow{}) {
		return nil, errors.New("invalid fieldmask: a path is not a field of flow.Flow")
	}
	mask.Normalize()
	tree := fieldMask{}
	for _, path := range mask.GetPaths() {
		node := tree
		elements := strings.Split(path, ".")
		for i, element := range elements {
			if i == len(elements)-1 {
				node[element] = nil
				break
			}
			if node[element] == nil {
				node[element] = fieldMask{}
			}
			node = node[element]
		}
	}
	return tree, nil
}

// prune clears what is not wanted. The message must be the caller's own.
func (m fieldMask) prune(message protoreflect.Message) {
	if m == nil {
		return
	}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		below, wanted := m[string(field.Name())]
		switch {
		case !wanted:
			message.Clear(field)
		case below != nil && field.Message() != nil && !field.IsList() && !field.IsMap():
			below.prune(value.Message())
		}
		return true
	})
}
