"""Reports over recorded runs: `request` asks, `build` answers, `publish` puts it into MLflow."""
