"""What is answered instead of a result."""

from pydantic import BaseModel


class Refusal(Exception):
    """A request that is not served: the status, a code for programs, a sentence for people."""

    def __init__(
        self, status: int, code: str, message: str, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}

    def body(self, request_id: str) -> dict[str, dict[str, str]]:
        """The JSON that every refusal has."""
        error = {"code": self.code, "message": self.message, "request_id": request_id}
        return {"error": error}


class ErrorDetail(BaseModel):
    """Why there is no result."""

    code: str
    message: str
    request_id: str


class ErrorBody(BaseModel):
    """What every refusal has as its body."""

    error: ErrorDetail
