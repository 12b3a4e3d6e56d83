"""The whole product on private servers, in one command."""
