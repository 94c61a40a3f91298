#!/usr/bin/env bash
# A run on a TPU slice of GKE: a JobSet of one pod per host, queued by Kueue where a queue is named.
#   bash launch/gke.sh --type=v5litepod-64 --staging=gs://BUCKET/FOLDER --claim=NAME --config=configs/NAME.py --workdir=/mnt/run/DIR [--run] [FLAGS ...]
# Its own flags: --type=TYPE; --staging=gs://... where pods fetch the code; --queue=NAME of the Kueue LocalQueue; --spot=true;
# --claim=NAME of a volume claim that all pods can write, mounted at --mount=/mnt/run; --image=IMAGE with bash and Python 3.11 or newer;
# --namespace=NAME; --account=NAME of the Kubernetes service account that may read the bucket. JobSet must be 0.10 or newer.
#
# shellcheck disable=SC2034  # templates are filled with these variables
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/pod.sh"

type='' staging='' queue='' spot=false claim='' mount=/mnt/run image=python:3.12 namespace=default account=''
read_flags "type staging queue spot claim mount image namespace account" "$@"
want type staging claim
[[ $staging == gs://* ]] || fail "--staging=$staging: give gs://BUCKET/FOLDER"
[[ $spot == true || $spot == false ]] || fail "--spot=$spot; it is true or false"
[[ $workdir == "$mount"/* ]] ||
    fail "--workdir=$workdir: a pod's own disk goes with the pod; give a folder of --claim=NAME, below its --mount=$mount"
accelerator "$type"

# when CONDITION LINE...: the lines, where the condition is not empty.
when() {
    [[ -z $1 ]] || printf '%s\n' "${@:2}"
}

# The rules that say which exit codes restart: JobSet reads them in the message of a Job that failed (its KEP 262); the restarts that do not
# count stand for stops and preemptions, `maxRestarts` for faults.
jobset() {
    local variable
    cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: "$name"
  namespace: $namespace
$(when "$queue" "  labels:" "    kueue.x-k8s.io/queue-name: $queue")
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool # a slice is a node pool
spec:
  failurePolicy:
    maxRestarts: $failures # after faults; stops and preemptions do not count
    rules:
      - name: mistakeOfTheCaller
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
        onJobFailureMessagePatterns: ["exit code 2 "]
      - name: stoppedOrLost
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
        onJobFailureMessagePatterns: ["exit code 75 ", "DisruptionTarget"]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $hosts # one pod per host
          completions: $hosts
          backoffLimit: 0 # a host alone cannot come back: all start again together
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: train, operator: In, values: [2, 75]}
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: "True"}]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120 # to save after SIGTERM
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
$(when "$account" "              serviceAccountName: $account")
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $gke_accelerator
                cloud.google.com/gke-tpu-topology: $topology
$(when "${spot/false/}" "                cloud.google.com/gke-spot: \"true\"")
              tolerations:
                - {key: google.com/tpu, operator: Exists, effect: NoSchedule}
$(when "${spot/false/}" "                - {key: cloud.google.com/gke-spot, operator: Exists, effect: NoSchedule}")
              initContainers:
                - name: fetch
                  image: google/cloud-sdk:slim
                  command: [gcloud, storage, cp, "$staging/$name/*", /bundle/]
                  volumeMounts:
                    - {name: bundle, mountPath: /bundle}
              containers:
                - name: train
                  image: $image
                  command: [bash, /bundle/on_host.sh, run]
                  ports:
                    - {containerPort: 8471} # between the hosts of a slice
                    - {containerPort: $port}
$(when "$pass_env" "                  env:")
$(for variable in ${pass_env//,/ }; do
        echo "                    - {name: $variable, valueFrom: {secretKeyRef: {name: $name-env, key: $variable}}}"
    done)
                  resources:
                    limits: {google.com/tpu: $chips}
                    requests: {google.com/tpu: $chips}
                  volumeMounts:
                    - {name: bundle, mountPath: /bundle}
                    - {name: memory, mountPath: /dev/shm}
                    - {name: run, mountPath: $mount}
              volumes:
                - {name: bundle, emptyDir: {}}
                - {name: memory, emptyDir: {medium: Memory}}
                - {name: run, persistentVolumeClaim: {claimName: $claim}}
END
}

mkdir -p "$out"
jobset | grep -v '^$' >"$out/jobset.yaml"
# Who restarts is JobSet, all hosts at once; on_host.sh ends with what training ended with.
platform=jobset extra=tpu restarts=0 failures=0 scheduler=gke poll=30 patience=1800 create_flags='()'
logdir=$workdir/logs
bundle
fill run_jobset.sh "$out/run.sh"
print_and_run bundle/on_host.sh bundle/hosts.env jobset.yaml run.sh
