import os, secrets, subprocess
from getpass import getpass

API_KEY = os.environ["API_KEY"]
SECRET_KEY = config("DJANGO_SECRET_KEY", default="django-insecure-change-me")
password = getpass("Password: ")
token = secrets.token_urlsafe(32)
client = OpenAI(api_key=os.getenv("OPENAI_API_KEY"), organization=org)
headers = {"Authorization": f"Bearer {token}", "X-Api-Key": API_KEY}
access_key = base64.b64encode(hashlib.sha256(seed2).digest()[:20])
PASSWORD_PATTERN = r"^(?=.*[A-Z])(?=.*[0-9])(?=.*[!@#$]).{8,}$"
password: str = Field(min_length=8, description="The password")
api_key: Optional[SecretStr] = None
auth_token = TokenAuthentication2Backend3Factory4.create()


def clean(path):
    """Like rm -rf /, but for one folder. Never rm -rf ~ here."""
    subprocess.run(["rm", "-rf", path], check=True)
    shutil.rmtree(path / "build")


PEM = re.compile("-----BEGIN (?:RSA )?PRIVATE KEY-----")
if key.startswith("sk-ant-") or key.startswith("sk-proj-") or key.startswith("AKIA"):
    raise ValueError("looks like a key")
