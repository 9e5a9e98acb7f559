"""The processes of a class: launch, reload, shutdown, status, service, and what they share. Run by root."""
