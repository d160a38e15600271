package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// PortRule is one element of `toPorts` of an allow rule.
type PortRule struct {
	// +optional
	// +kubebuilder:validation:MaxItems=40
	Ports []PortProtocol `json:"ports,omitzero"`
	// +optional
	TerminatingTLS *TLSContext `json:"terminatingTLS,omitempty"`
	// +optional
	OriginatingTLS *TLSContext `json:"originatingTLS,omitempty"`
	// +optional
	ServerNames []string `json:"serverNames,omitzero"`
	// +optional
	Listener *Listener `json:"listener,omitempty"`
	// +optional
	Rules *L7Rules `json:"rules,omitempty"`
}

// PortDenyRule is one element of `toPorts` of a deny rule.
type PortDenyRule struct {
	// +optional
	// +kubebuilder:validation:MaxItems=40
	Ports []PortProtocol `json:"ports,omitzero"`
}

// PortProtocol is a port or a range of ports of a protocol. Ports are those of the pod, after service translation.
type PortProtocol struct {
	// Port is a number in quotes or the name of a container port; "0" is every port.
	// +optional
	Port string `json:"port,omitempty"`
	// EndPort makes it the range from port to endPort, both included.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	EndPort int32 `json:"endPort,omitempty"`
	// Protocol defaults to ANY, which is TCP, UDP and SCTP.
	// +optional
	// +kubebuilder:validation:Enum=TCP;UDP;SCTP;VRRP;IGMP;GRE;IPIP;IPV6;ESP;AH;ANY
	Protocol string `json:"protocol,omitempty"`
}

// ICMPRule is one element of `icmps`.
type ICMPRule struct {
	// +optional
	// +kubebuilder:validation:MaxItems=40
	Fields []ICMPField `json:"fields,omitzero"`
}

// ICMPField is one ICMP message type.
type ICMPField struct {
	// Family is IPv4 unless said otherwise.
	// +optional
	// +kubebuilder:validation:Enum=IPv4;IPv6
	Family string `json:"family,omitempty"`
	// Type is the message type, as a number or by its name, such as EchoRequest.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:XIntOrString
	Type IntOrString `json:"type"`
}

// L7Rules restricts what is said on a port.
type L7Rules struct {
	// +optional
	HTTP []HTTPRule `json:"http,omitzero"`
	// +optional
	DNS []FQDNSelector `json:"dns,omitzero"`
}

// HTTPRule is one kind of HTTP request.
type HTTPRule struct {
	// +optional
	Path string `json:"path,omitempty"`
	// +optional
	Method string `json:"method,omitempty"`
	// +optional
	Host string `json:"host,omitempty"`
	// +optional
	Headers []string `json:"headers,omitzero"`
	// +optional
	HeaderMatches []HeaderMatch `json:"headerMatches,omitzero"`
}

// HeaderMatch is a requirement on an HTTP header.
type HeaderMatch struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// +optional
	Value string `json:"value,omitempty"`
	// +optional
	Secret *Secret `json:"secret,omitempty"`
	// +optional
	// +kubebuilder:validation:Enum=LOG;ADD;DELETE;REPLACE
	Mismatch string `json:"mismatch,omitempty"`
}

// TLSContext says which secret holds the material of a TLS connection.
type TLSContext struct {
	Secret Secret `json:"secret"`
	// +optional
	Certificate string `json:"certificate,omitempty"`
	// +optional
	PrivateKey string `json:"privateKey,omitempty"`
	// +optional
	TrustedCA string `json:"trustedCA,omitempty"`
}

// Secret names a Kubernetes secret.
type Secret struct {
	Name string `json:"name"`
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// Listener names a listener of an Envoy configuration.
type Listener struct {
	EnvoyConfig EnvoyConfig `json:"envoyConfig"`
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Priority int32 `json:"priority,omitempty"`
}

// EnvoyConfig names a CiliumEnvoyConfig or CiliumClusterwideEnvoyConfig.
type EnvoyConfig struct {
	// +optional
	// +kubebuilder:validation:Enum=CiliumEnvoyConfig;CiliumClusterwideEnvoyConfig
	Kind string `json:"kind,omitempty"`
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
}

// IntOrString is a number or a text, as JSON has it.
type IntOrString struct {
	// IsString tells which of the two it is.
	IsString bool   `json:"-"`
	Int      int32  `json:"-"`
	Str      string `json:"-"`
}

// String gives the number in decimal, or the text.
func (v IntOrString) String() string {
	if v.IsString {
		return v.Str
	}
	return strconv.Itoa(int(v.Int))
}

// UnmarshalJSON reads a JSON number or string.
func (v *IntOrString) UnmarshalJSON(data []byte) error {
	data = bytes.TrimSpace(data)
	if len(data) > 0 && data[0] == '"' {
		*v = IntOrString{IsString: true}
		return json.Unmarshal(data, &v.Str)
	}
	*v = IntOrString{}
	if err := json.Unmarshal(data, &v.Int); err != nil {
		return fmt.Errorf("reading a number or a text: %w", err)
	}
	return nil
}

// MarshalJSON writes what UnmarshalJSON read.
func (v IntOrString) MarshalJSON() ([]byte, error) {
	if v.IsString {
		return json.Marshal(v.Str)
	}
	return json.Marshal(v.Int)
}
