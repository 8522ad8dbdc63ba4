CREATE DATABASE mlflow_auth;  -- who may see what; MLflow keeps it apart from the runs
