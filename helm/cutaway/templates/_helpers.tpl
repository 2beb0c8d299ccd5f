{{- define "cutaway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "cutaway.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "cutaway.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "cutaway.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "cutaway.selector" -}}
app.kubernetes.io/name: {{ include "cutaway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cutaway.labels" -}}
{{ include "cutaway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: collector
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "cutaway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "cutaway.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.create is false: name an existing one in serviceAccount.name" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* A setting as text. YAML numbers arrive as floats, and 67108864 must not become 6.7108864e+07. */}}
{{- define "cutaway.text" -}}
{{- if kindIs "float64" . }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end }}
{{- end }}

{{/* Seconds the pod may take to stop: more than it takes to store what is queued. */}}
{{- define "cutaway.grace" -}}
{{- $drain := 20 }}
{{- if hasKey .Values.settings "drain_seconds_max" }}{{ $drain = int .Values.settings.drain_seconds_max }}{{ end }}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds }}
{{- add $drain 10 }}
{{- else if le (int .Values.terminationGracePeriodSeconds) $drain }}
{{- fail (printf "terminationGracePeriodSeconds is above settings.drain_seconds_max, or queued spans are lost: it is %d with a drain of %d. Leave it out for %d." (int .Values.terminationGracePeriodSeconds) $drain (add $drain 10)) }}
{{- else }}
{{- int .Values.terminationGracePeriodSeconds }}
{{- end }}
{{- end }}
