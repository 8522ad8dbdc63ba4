"""Reports on recorded runs: `request` parses, `build` computes, `publish` puts them into MLflow."""
