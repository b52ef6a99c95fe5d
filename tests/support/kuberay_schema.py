"""JSON schemas of the fields of KubeRay's and Kubernetes' objects that the manifests use; any other field is an error.

Field names and types are those of KubeRay 1.5.1 to 1.7 (`ray.io/v1`) and of Kubernetes' core `v1`. Wider than what is
written here those objects are, but no narrower: what passes here passes there.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]


def _fields(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


TEXT: Final[Schema] = {"type": "string", "minLength": 1}
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": TEXT}
BOOL: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
PORT: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 65535}
QUANTITY: Final[Schema] = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
QUANTITIES: Final[Schema] = {"type": "object", "additionalProperties": QUANTITY}
RESOURCES: Final = _fields(("requests", "limits"), requests=QUANTITIES, limits=QUANTITIES)

METADATA: Final = _fields(
    ("name",), name={"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$"}, labels=TEXTS
)
SECRET_KEY: Final = _fields(("name", "key"), name=TEXT, key=TEXT, optional=BOOL)
VARIABLE: Final[Schema] = {
    **_fields(("name",), name=TEXT, value=TEXT, valueFrom=_fields(("secretKeyRef",), secretKeyRef=SECRET_KEY)),
    "oneOf": [{"required": ["value"]}, {"required": ["valueFrom"]}],
}
PROBE: Final = _fields(
    ("httpGet",),
    httpGet=_fields(("path", "port"), path={"type": "string", "pattern": "^/"}, port=PORT),
    initialDelaySeconds=COUNT,
    periodSeconds=COUNT,
    timeoutSeconds=COUNT,
    failureThreshold=COUNT,
)
CONFINED: Final = _fields(
    ("allowPrivilegeEscalation", "capabilities"),
    allowPrivilegeEscalation={"const": False},
    readOnlyRootFilesystem={"const": True},
    capabilities=_fields(("drop",), drop={"const": ["ALL"]}),
)
USER: Final = _fields(
    ("runAsNonRoot", "runAsUser", "seccompProfile"),
    runAsNonRoot={"const": True},
    runAsUser={"type": "integer", "minimum": 1},
    runAsGroup={"type": "integer", "minimum": 1},
    fsGroup={"type": "integer", "minimum": 1},
    fsGroupChangePolicy={"enum": ["OnRootMismatch", "Always"]},
    seccompProfile=_fields(("type",), type={"const": "RuntimeDefault"}),
)
CONTAINER: Final = _fields(
    ("name", "image", "resources", "securityContext", "livenessProbe", "readinessProbe", "volumeMounts"),
    name=TEXT,
    image=TEXT,
    imagePullPolicy={"enum": ["IfNotPresent", "Always", "Never"]},
    ports=_list(_fields(("containerPort", "name"), containerPort=PORT, name={"type": "string", "maxLength": 15})),
    env=_list(VARIABLE),
    resources=RESOURCES,
    securityContext=CONFINED,
    livenessProbe=PROBE,
    readinessProbe=PROBE,
    volumeMounts=_list(_fields(("name", "mountPath"), name=TEXT, mountPath={"type": "string", "pattern": "^/"})),
)
VOLUME: Final[Schema] = {
    **_fields(
        ("name",),
        name=TEXT,
        persistentVolumeClaim=_fields(("claimName",), claimName=TEXT),
        emptyDir=_fields((), sizeLimit=QUANTITY, medium={"const": "Memory"}),
    ),
    "oneOf": [{"required": ["persistentVolumeClaim"]}, {"required": ["emptyDir"]}],
}
POD: Final = _fields(
    ("metadata", "spec"),
    metadata=_fields(("labels",), labels=TEXTS),
    spec=_fields(
        ("containers", "securityContext", "volumes"),
        automountServiceAccountToken=BOOL,
        containers=_list(CONTAINER),
        securityContext=USER,
        tolerations=_list(
            _fields((), key=TEXT, operator={"enum": ["Exists", "Equal"]}, effect={"enum": ["NoSchedule", "NoExecute"]})
        ),
        volumes=_list(VOLUME),
    ),
)
CLUSTER: Final = _fields(
    ("rayVersion", "headGroupSpec", "workerGroupSpecs"),
    rayVersion=TEXT,
    authOptions=_fields(("mode",), mode={"const": "token"}),
    enableInTreeAutoscaling=BOOL,
    autoscalerOptions=_fields(
        (), version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT, resources=RESOURCES, securityContext=CONFINED
    ),
    headGroupSpec=_fields(("template",), serviceType={"const": "ClusterIP"}, rayStartParams=TEXTS, template=POD),
    workerGroupSpecs=_list(
        _fields(
            ("groupName", "minReplicas", "maxReplicas", "template"),
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=TEXTS,
            template=POD,
        )
    ),
)


def _object(api: str, kind: str, spec: Schema) -> Schema:
    return _fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": api},
        kind={"const": kind},
        metadata=METADATA,
        spec=spec,
    )


SCHEMAS: Final[dict[str, Schema]] = {
    "RayCluster": _object("ray.io/v1", "RayCluster", CLUSTER),
    "RayService": _object(
        "ray.io/v1",
        "RayService",
        _fields(
            ("serveConfigV2", "rayClusterConfig"),
            upgradeStrategy=_fields(("type",), type={"enum": ["None", "NewCluster"]}),
            rayClusterDeletionDelaySeconds=COUNT,
            serveConfigV2=TEXT,
            rayClusterConfig=CLUSTER,
        ),
    ),
    "RayJob": _object(
        "ray.io/v1",
        "RayJob",
        _fields(
            ("entrypoint", "rayClusterSpec"),
            submissionMode={"enum": ["HTTPMode", "K8sJobMode"]},
            entrypoint=TEXT,
            backoffLimit=COUNT,
            shutdownAfterJobFinishes=BOOL,
            ttlSecondsAfterFinished=COUNT,
            rayClusterSpec=CLUSTER,
        ),
    ),
    "PersistentVolumeClaim": _object(
        "v1",
        "PersistentVolumeClaim",
        _fields(
            ("accessModes", "resources"),
            accessModes={"const": ["ReadWriteMany"]},
            storageClassName=TEXT,
            resources=_fields(("requests",), requests=_fields(("storage",), storage=QUANTITY)),
        ),
    ),
    "PodMonitor": _object(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        _fields(
            ("selector", "podMetricsEndpoints"),
            selector=_fields(("matchLabels",), matchLabels=TEXTS),
            podMetricsEndpoints=_list(_fields(("port",), port=TEXT, interval=TEXT)),
        ),
    ),
}
"""By kind."""
