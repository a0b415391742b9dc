// Package podmonitor pins the module whose tree holds the PodMonitor resource definition. Nothing
// of it is compiled: the tests apply that one YAML file.
package podmonitor
