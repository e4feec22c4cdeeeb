"""The media operations of Reelay. This package handles files only; it knows no HTTP, jobs or providers."""
