package endpoints

import "fairlead.dev/node-agent/internal/datapath"

type policyEntry = datapath.PolicyEntry

func endpointID(n int) datapath.EndpointID { return datapath.EndpointID(n) }
