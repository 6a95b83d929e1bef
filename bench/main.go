package main

// The daemon's files are of package main; this makes them a program. It has nothing to do: see the tests.
func main() {}
