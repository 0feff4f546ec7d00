module sluice.dev/examples/price-alert

go 1.24
