module fairlead.dev/bench/traffic

go 1.24
