"""What a grader is measured with: manifests, metrics, sessions, drift."""
