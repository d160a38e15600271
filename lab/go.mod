module fairlead.dev/lab

go 1.26.0
