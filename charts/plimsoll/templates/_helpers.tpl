{{/* Name of everything the chart makes: the release's, with "plimsoll" in it once. */}}
{{- define "plimsoll.fullname" -}}
{{- if contains "plimsoll" .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-plimsoll" .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pods. */}}
{{- define "plimsoll.selector" -}}
app.kubernetes.io/name: plimsoll-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of everything the chart makes. */}}
{{- define "plimsoll.labels" -}}
{{ include "plimsoll.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: plimsoll
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Name of the Secret with the operator's key. */}}
{{- define "plimsoll.keySecret" -}}
{{ .Values.key.existingSecret | default (printf "%s-key" (include "plimsoll.fullname" .)) }}
{{- end -}}

{{/* What the operator may do where it watches. */}}
{{- define "plimsoll.rules" -}}
- apiGroups: [plimsoll.dev]
  resources: [inferencedeployments]
  verbs: [get, list, watch]
- apiGroups: [plimsoll.dev]
  resources: [inferencedeployments/status]
  verbs: [patch]
# Children are created, and changed by server-side apply, which is a patch.
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [list, watch, create, patch]
- apiGroups: [""]
  resources: [pods, configmaps]
  verbs: [list, watch, create, patch, delete]
# The memory limit of an engine that runs follows its quotas.
- apiGroups: [""]
  resources: [pods/resize]
  verbs: [patch]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
# Whether the Service of an InferenceDeployment has an endpoint.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# Admin tokens are derived from the operator's key. Secrets are created, and whose one is that exists is asked by a
# patch that changes nothing, so that no right to get them is needed. A patch could answer with more, and a new Secret
# could ask for an account's token: policy.yaml holds both to the operator's own.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
