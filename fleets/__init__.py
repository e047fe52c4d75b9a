"""Complete example fleets. They use Admiralty's public API only, as anybody's own fleet would."""
