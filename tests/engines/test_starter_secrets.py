"""What counts as a secret and what does not: tables from a coding agent's day.

Every key is made at run time, of pieces: none is in this repository as it stands.
"""

from __future__ import annotations

import base64
import json
import re
import string
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invariant_addon.starter import secrets, texts

from .test_detectors import ALNUM, UPPER, chars, jwt, pem

HEX = "0123456789abcdef"
URL = ALNUM + "-_"
BASE64 = ALNUM + "+/"
BECH32 = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
STARTER = Path(secrets.__file__).parent


def key(beginning: str, count: int, alphabet: str = ALNUM) -> str:
    """A beginning in two pieces ("sk-|ant-") and that many characters."""
    made = chars(len(beginning) + count, count - 3, alphabet)
    if set(alphabet) == set(HEX):
        made = made[:-4] + "70a2"
    return beginning.replace("|", "") + made + ("a07" if alphabet == HEX else "Z07")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


KNOWN: dict[str, list[str]] = {
    "openrouter": [key("sk-|or-v1-", 64, HEX)],
    "anthropic": [key("sk-|ant-api03-", 95, URL)],
    "groq": [key("gs|k_", 52)],
    "xai": [key("xa|i-", 80)],
    "perplexity": [key("pp|lx-", 48)],
    "replicate": [key("r8|_", 37)],
    "langchain": [key("lsv2|_pt_", 32, HEX) + "_" + chars(9, 10, HEX)[:8] + "a0"],
    "nvidia": [key("nv|api-", 64, URL)],
    "tavily": [key("tv|ly-", 32)],
    "sendgrid": [key("S|G.", 22, URL) + "." + chars(7, 43, URL)],
    "telegram": ["71" + "04985523:AA" + chars(8, 33, URL)],
    "pypi": ["py" + "pi-AgEIcHlwaS5vcmc" + chars(9, 120, URL)],
    "digitalocean": [key(f"do{x}|_v1_", 64, HEX) for x in "por"],
    "google": [key("GOC|SPX-", 28, URL), "ya" + "29.a0" + chars(3, 160, URL)],
    "vault": [key("hv|s.", 24), key("hv|s.CAES", 90, URL), key("hv|b.", 140, URL)],
    "gitlab": [
        key("gl|pat-", 20),
        key("gl|dt-", 20),
        key("glr|t-", 20, URL),
        key("glp|tt-", 40, HEX),
    ],
    "huggingface": [key("hf|_", 34)],
    "stripe": [key("sk_|live_", 24), key("rk_|live_", 99), key("wh|sec_", 32)],
    "twilio": [key("S|K", 32, HEX)],
    "mailgun": ["MAILGUN_KEY=" + key("ke|y-", 32, HEX), "curl -u api:" + key("ke|y-", 32, HEX)],
    "shopify": [key(f"shp{x}|_", 32, HEX) for x in ("at", "ca", "pa", "ss")],
    "square": [key("sq0|atp-", 22, URL), key("sq0|csp-", 43, URL), key("EAA|Al", 59, URL)],
    "linear": [key("lin|_api_", 40)],
    "notion": [key("nt|n_", 46), key("sec|ret_", 43)],
    "databricks": [key("da|pi", 32, HEX)],
    "cloudflare": [key("cf|ut_", 48), key("v1.|0-", 24, HEX) + "-" + key("", 146, HEX)],
    "azure": [
        "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=" + chars(5, 86, BASE64) + "==",
        "Endpoint=sb://a.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey="
        + chars(6, 43, BASE64)
        + "=",
        "aB3" + "8Q~" + chars(7, 34),
    ],
    "docker": [key("dckr|_pat_", 27, URL), key("dckr|_oat_", 32, URL)],
    "supabase": [key("sb|p_", 40, HEX), key("sb_|secret_", 31, URL)],
    "grafana": [key("gl|sa_", 32) + "_" + key("", 8, HEX), key("gl|c_eyJ", 60)],
    "newrelic": [key("NR|AK-", 27, UPPER)],
    "sentry": ["sn" + "trys_eyJ" + chars(4, 90), key("sn|tryu_", 64, HEX)],
    "age": ["AGE-" + "SECRET-KEY-1" + chars(11, 54, BECH32) + "7Q2Z" + "QPZR"],
    "npm": [key("np|m_", 36)],
    "atlassian": [key("ATATT|3xFfGF0", 170, URL)],
    "postman": [key("PM|AK-", 24, HEX) + "-" + key("", 34, HEX)],
    "figma": [key("fi|gd_", 40, URL)],
    "airtable": ["pat" + chars(5, 14) + "." + key("", 64, HEX)],
    "doppler": [key("dp.|pt.", 43)],
    "terraform": [chars(4, 14) + ".atlas" + "v1." + chars(6, 67, URL)],
    "pulumi": [key("pu|l-", 40, HEX)],
    "tailscale": ["tskey" + "-auth-" + chars(6, 16) + "-" + chars(7, 32)],
    "rubygems": [key("ruby|gems_", 48, HEX)],
    "netlify": [key("nf|p_", 36)],
    "resend": ["r" + "e_" + chars(6, 8) + "_" + chars(7, 24)],
    "discord": ["https://discord.com/api/webhooks/1187654321098765432/" + chars(3, 68, URL)],
    "putty": [
        "PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\n" + chars(4, 64, BASE64) + "\n"
    ],
}
"""Keys whose form says whose they are."""

STRONG = "Vq9" + "#mLx2!wZ7k"
ZEBRA = "hunter2" + "Zebra!"
H32, H40, H64 = key("", 32, HEX), key("", 40, HEX), key("", 64, HEX)
R32, R40 = chars(31, 32), chars(32, 40)
B44 = chars(33, 43, BASE64) + "="

LEAKS = [
    # .env files and shells
    f"password: {ZEBRA}",
    f"password: {ZEBRA}\nuser: ada\n",
    f"DB_PASS={STRONG}",
    f"DB_PASS={STRONG}\nDB_USER=app\n",
    f"DB_PASS='{STRONG}'\n",
    f"export DB_PASSWORD={ZEBRA}\n",
    f"PGPASSWORD={STRONG} psql -h db.internal -U app",
    f"MYSQL_PWD={STRONG} mysqldump shop > shop.sql",
    f"TOKEN={H40}",
    f"TOKEN={H40}\n",
    f"TOKEN={B44}\n",
    f"AUTH_TOKEN: {R40}\n",
    f"AUTH_TOKEN: {H32}",
    f"SLACK_TOKEN={R40}\n",
    f"JWT_SECRET={H64}\n",
    f"APP_KEY=base64:{B44}\n",
    f"FERNET_KEY={B44}\n",
    f"AZURE_OPENAI_KEY={H32}\n",
    f"SECRET_KEY_BASE={H64}{H64}\n",
    f"CLOUDFLARE_API_TOKEN={R40}\n",
    f"TWILIO_AUTH_TOKEN={H32}\n",
    f"HEROKU_API_KEY={H32[:8]}-{H32[8:12]}-4a2b-9c3d-{H32[12:24]}\n",
    f"SMTP_PASS={STRONG}\r\n",
    f"REDIS_PASSWORD={STRONG[:6]}$xy{STRONG[6:]}\n",
    f"set -x API_TOKEN {R40}\n",
    f"$env:API_TOKEN = '{R40}'",
    # command lines and terminal histories
    f"deploy --password {ZEBRA}",
    f"deploy --password '{STRONG}' --yes",
    f"acme login --api-token {R40}",
    f"acme login --token={H40}",
    f"mysql -u root -p'{STRONG}' shop",
    f"mysql -uroot -p{STRONG} shop",
    f"mysqldump --user=root -p{STRONG}",
    f"sshpass -p '{STRONG}' ssh ops@10.0.0.4",
    f"redis-cli -h cache -a {STRONG} ping",
    f"docker login -u ada -p {STRONG} example.com",
    f"curl -u ada:{STRONG} https://api.example.com/",
    f'curl -fsS --user "ada:{ZEBRA}" https://api.example.com/',
    f"  501  curl -H 'Authorization: Bearer {R40}' https://api.example.com/v1/me",
    f"curl -H 'X-Api-Key: {H32}' https://api.example.com",
    f"curl -H 'Authorization: Basic {b64('ada:' + STRONG)}' https://api.example.com",
    f"kubectl create secret generic db --from-literal=password={STRONG}",
    f"aws configure set aws_secret_access_key {chars(34, 40, ALNUM + '/+')}",
    f"git clone https://ada:{STRONG.replace('#', '!')}@git.acme.dev/a.git",
    f"git remote add origin https://oauth2:{R32}@git.acme.dev/a.git",
    f"npm config set //npm.acme.dev/:_authToken={R40}",
    f"vault kv put secret/app db_password={STRONG}",
    # configuration
    f"DATABASE_URL=postgres://app:{chars(41, 24)}@db.acme.internal:5432/app\n",
    f'redis_url: "redis://:{chars(42, 32)}@cache.acme.internal:6379/0"',
    f"amqp://svc:{STRONG.replace('#', '_')}@mq.acme.internal:5672/",
    f"services:\n  db:\n    environment:\n      POSTGRES_PASSWORD: {STRONG}\n",
    f"      - MYSQL_ROOT_PASSWORD={STRONG}\n",
    f"data:\n  password: {b64(ZEBRA)}\n  user: {b64('ada')}\n",
    f"data:\n  api-key: {b64(R40)}\n",
    f'- name: DB_PASSWORD\n  value: "{STRONG}"\n',
    f"- name: API_TOKEN\n  value: {R40}\n",
    f'{{"name": "STRIPE_SECRET", "value": "{R40}"}}',
    f'resource "x" "y" {{\n  master_password = "{STRONG}"\n}}',
    f'variable "token" {{ default = "{R40}" }}\ntoken = "{R40}"',
    f"Server=db;Database=shop;User Id=sa;Password={STRONG};Encrypt=true",
    f"<password>{STRONG}</password>",
    f'{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{b64("ada:" + STRONG)}"}}}}}}',
    f"machine git.acme.dev login ada password {R32}\n",
    f"machine git.acme.dev\n  login ada\n  password {STRONG}\n",
    f"db.acme.dev:5432:shop:ada:{STRONG}\n",
    f"spring.datasource.password={STRONG}\n",
    f"[smtp]\nuser = ada\npassword = {ZEBRA}\n",
    f"requirepass: x\npassword:   {STRONG}   # staging\n",
    f"ansible_password: {STRONG}\n",
    # source code
    f'conn = connect(host="db", user="app", password="{ZEBRA}")',
    f"const client = new Client({{ apiKey: '{R40}' }});",
    f"const client = new Client({{ auth: {{ user: 'ada', pass: '{STRONG}' }} }});",
    f'os.environ["API_TOKEN"] = "{R40}"',
    f'os.environ.setdefault("API_TOKEN", "{R40}")',
    f'req.Header.Set("Authorization", "Bearer {R40}")',
    f'request.setHeader("X-Api-Key", "{H32}");',
    f'private static final String API_KEY = "{R40}";',
    f'token = "{R40}"  # TODO: remove',
    f'API_TOKEN: Final = "{R40}"',
    f'api_key: str = "{R40}"',
    f'const apiKey: string = "{R40}";',
    f"requests.get(url, auth=('ada', 'x'), headers={{'Authorization': 'token {H40}'}})",
    f'"client_secret": "{R32}"',
    f'{{\\"password\\": \\"{STRONG}\\"}}',
    # what people write
    f"the db password is {ZEBRA}",
    f"Please log in as ada, password: {STRONG} and look.",
    # logs
    f"> Authorization: Bearer {R40}\r\n> Accept: */*",
    f"2025-03-01 ERROR request_id=1ef failed: headers={{'authorization': 'Bearer {R40}'}}",
    f"+ TOKEN={R40}\n+ curl -s https://api.acme.dev",
    f'"headers":{{"x-api-key":"{R40}"}}',
    f"GET /v1/me?access_token={R40} HTTP/1.1",
    # text after the beginning of a value cannot make it harmless
    f"password: {STRONG} example",
    # kinds of their own
    jwt(77),
    pem(78, "PGP ").replace("KEY-", "KEY BLOCK-"),
    pem(79, "OPENSSH "),
    "AWS_SECRET_ACCESS_KEY=" + chars(80, 40, ALNUM + "/+"),
]

SPECIMEN = "16C7e42F292c6912E7710c838347Ae178B4a"  # docs.github.com
SHOP_UUID = "9ecb8262-f2e3-49c4-9e7f-ba4776289a13"
BCRYPT = "$2b$12$" + chars(51, 53, ALNUM + "./")
ARGON = "$argon2id$v=19$m=65536,t=3,p=4$" + chars(52, 22) + "$" + chars(53, 43)


def unsigned(payload: dict[str, object]) -> str:
    def part(value: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(payload)}.{chars(54, 43, URL)}"


FIREBASE = key("AI|za", 35, URL)
CLEAN = [
    # kubernetes, compose, terraform
    "volumes:\n- name: tls\n  secret: myapp-tls-cert\n",
    "secret: prod-db-7f9c4d8b6-x2k4q\n",
    "secretName: prod-db-credentials-v2-7f9c4d8b6k2x4\n",
    "valueFrom:\n  secretKeyRef:\n    name: db-credentials\n    key: password\n",
    "secret:\n  secretName: app1-tls2-cert3-2025\n",
    "encryptedData:\n  password: Ag" + chars(55, 400, BASE64) + "\n",
    "password: ENC[AES256_GCM,data:" + chars(56, 24, BASE64) + ",iv:" + chars(57, 40) + "]\n",
    "db_password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  " + H64 + "\n",
    "password: op://Prod/db/password\n",
    "password: vault:kv/data/db2#passwordField1\n",
    "password = random_password.master_2024_v2.result\n",
    "token = data.aws_ecr_authorization_token.ecr2Token.password\n",
    'secret_id = "projects/12345/secrets/Db2Pass/versions/7"',
    "password: ${DB_PASSWORD}",
    "password: ${DB_PASSWORD:-Dev1Local!pw}\n",
    "POSTGRES_PASSWORD: ${POSTGRES_PASSWORD:?set_me}\n",
    "POSTGRES_PASSWORD=postgres\n",
    "MYSQL_ROOT_PASSWORD=rootroot\n",
    "DATABASE_URL=postgres://postgres:postgres@localhost:5432/app_test\n",
    "DATABASE_URL=postgresql://user:password@db:5432/app\n",
    "amqp://guest:guest@rabbitmq:5672/",
    "mongodb+srv://<user>:<password>@cluster0.ab1cd.mongodb.net",
    "https://${USER}:${TOKEN}@git.acme.dev/a.git",
    "password: {{ secrets.DB_PASSWORD }}",
    "token: ${{ secrets.GITHUB_TOKEN }}",
    "password: {{ .Values.db.password2 | quote }}",
    "data:\n  password: " + b64("changeme") + "\n",
    "data:\n  password: " + b64("supersecretpassword") + "\n",
    "data:\n  password: " + b64("<your-password-here-1A!>") + "\n",
    # UUIDs, digests, ids
    f'"apiKey": "{SHOP_UUID}"',
    f"token: {SHOP_UUID}\n",
    f"ACCOUNT_TOKEN={SHOP_UUID.upper()}\n",
    f'"password": "{BCRYPT}"',
    f"password={BCRYPT}\n",
    f"DB_PASSWORD_HASH={ARGON}\n",
    f"'password': '{ARGON}'",
    "password = 'pbkdf2_sha256$600000$" + chars(58, 22) + "$" + B44 + "'",
    "password: scrypt:32768:8:1$" + chars(59, 16) + "$" + H64 + "\n",
    "ada:$6$" + chars(60, 16) + "$" + chars(61, 86, ALNUM + "./") + ":19000:0:99999:7:::",
    f"commit {H40}\nAuthor: Ada <ada@acme.dev>",
    f"index {H40[:7]}..{H40[7:14]} 100644",
    f"sha256:{H64}",
    f"secret: sha256:{H64}",
    '"integrity": "sha512-' + chars(62, 86, BASE64) + '=="',
    "authorization: sha512-" + chars(62, 86, BASE64) + "==",
    "data:image/png;base64," + chars(63, 2000, BASE64),
    'src="data:font/woff2;base64,d09GMgABAAAAAEAAA' + chars(64, 300, BASE64) + '"',
    f'request_id={SHOP_UUID} trace_id={H32} status=401 msg="invalid access token"',
    f"cache-key-{H32}",
    f"Cache restored from key: node-modules-{H64}",
    f'etag: "{H32}"',
    # names that only look so
    'STORAGE_KEY = "user-preferences"',
    'const STORAGE_KEY = "acme:Settings:v2:2025";',
    'const ACCESS_TOKEN_KEY = "auth.accessToken.v2";',
    "localStorage.setItem('access_token', JSON.stringify(token2))",
    f'<input type="hidden" name="csrf_token" value="{R40}">',
    f"csrf_token: {R40}\n",
    f'"X-CSRF-Token": "{R40}"',
    f'<meta name="csrf-token" content="{R40}">',
    f'<input type="hidden" name="authenticity_token" value="{R40}==" />',
    f'window._token = "{R40}";',
    f"XSRF-TOKEN={R40}; path=/",
    f'"next_page_token": "{R40}"',
    f"nextToken: '{R40}'",
    f'"continuation_token": "{R40}"',
    f"page_token={R40}",
    "token_type: bearer",
    '"token_type": "Bearer", "expires_in": 3600',
    "max_tokens=4096, token = tokens[i]",
    "token = self.tokenizer.convert_ids_to_tokens(ids[0])",
    "pad_token = '<|endoftext|>'",
    "token = 0xA0b8" + "6991c6218b36c1d19D4a2e9Eb0cE3606eB48",
    "public_key: ssh-ed25519 " + chars(65, 68, BASE64),
    "password_pattern = /^(?=.*[A-Z])(?=.*\\d)[A-Za-z\\d@$!%*?&]{8,}$/",
    "PASSWORD_RESET_TIMEOUT=259200\n",
    'SECRET_NAME="prod/App1/Database2/credentials3"',
    "--password-stdin < ~/.token",
    "mkdir -p src/components/Auth2Form && cp -a Build2Out/ /srv",
    "docker run -p 8080:80 -u 1000:1000 acme/web1:2.0",
    "ssh -p 2222 ops@10.0.0.4 && mysql -uroot -proot app_test",
    'mysql -u root -p"$MYSQL_PWD" shop',
    "mysql -u root -p shop2Staging!x < dump.sql",
    "curl -u $USER:$TOKEN https://api.example.com",
    'curl -u "user:password" https://api.example.com',
    "curl -u username:your-api-token https://api.example.com",
    "kubectl get secret db -o jsonpath='{.data.password}' | base64 -d",
    'acme login --token $ACME_TOKEN --password "$(pass show acme)"',
    "acme login --password <your-password>",
    "Usage: acme [--token TOKEN] [--password PASSWORD] --api-key API_KEY_FROM_PAGE2_OF_SETUP3",
    # source code
    "interface A { token: string; password: string; apiKey?: string }",
    "token: Optional[str] = None, password: str = Field(..., min_length=8)",
    "password=password, token=token, api_key=self.api_key",
    "password: formData.newPassword2 ?? '',",
    'token = os.environ["TOKEN"]',
    "password = getpass()",
    "password = getpass.getpass(prompt='DB password: ')",
    "if password == confirmPassword2 && !isLocked2FA || password != oldPassword1:",
    "auth_token=request.headers.get('Authorization', '')[7:]",
    "access_token = generateRefreshToken2FAV3Handler(user)",
    "apiKey: import.meta.env.VITE_API_KEY_V2_2025,",
    "const secret = crypto.randomBytes(32).toString('hex');",
    "secretKey := base64.StdEncoding.EncodeToString(key32bytes)",
    'expect(login({ password: "ValidPass123!" })).rejects.toThrow()',
    "const user = { email: 'a@b.co', password: 'Str0ngP@ss!2024' };",
    "password: 'SecurePassword123!',",
    'password="Wrong-P4ssw0rd!"',
    'create_user(password="testPass2024!x")',
    'password: "Abcd1234!@#$"',
    'password = "correct horse battery staple"',
    '"password": "must contain 1 Upper, 1 lower & 1 digit!"',
    '"password.required": "Enter a Password!", "password": "Mot de passe n°2 (Oublié?)!"',
    'errors.password = "Must-have-8-chars-1Upper!"  # example',
    "@ApiProperty({ example: 'P@ssw0rd2024!' }) password: string;",
    # what is public by design
    'const firebaseConfig = {\n  apiKey: "' + FIREBASE + '",\n  authDomain: "a.firebaseapp.com",\n',
    'var config = {\n  apiKey: "' + FIREBASE + '",\n  authDomain: "a.firebaseapp.com",\n',
    '{"apiKey":"' + FIREBASE + '","authDomain":"a.firebaseapp.com","projectId":"a"}',
    "authDomain: 'a.firebaseapp.com',\n  projectId: 'a',\n  apiKey: '" + FIREBASE + "',\n",
    "NEXT_PUBLIC_FIREBASE_API_KEY=" + FIREBASE + "\n",
    '"api_key": [ { "current_key": "' + FIREBASE + '" } ]',
    f"algolia: {{ appId: 'AB12CD34EF', apiKey: '{H32}', indexName: 'docs' }}",
    "apiKey: '" + key("ph|c_", 43) + "'",
    "apiKey: '" + key("pk_|live_51H", 40) + "'",
    "stripe.api_key = '" + key("sk_|test_", 24) + "'",
    "SUPABASE_ANON_KEY=" + unsigned({"iss": "supabase-demo", "role": "anon", "exp": 1983812996}),
    "SERVICE_ROLE_KEY="
    + unsigned({"iss": "supabase-demo", "role": "service_role", "exp": 1983812996}),
    "https://release-assets.githubusercontent.com/x?jwt="
    + unsigned({"iss": "github.com", "aud": "release-assets.githubusercontent.com"}),
    "https://objects.githubusercontent.com/x?X-Amz-Credential="
    + key("AK|IA", 16, UPPER)
    + "%2F20250101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Signature="
    + H64,
    # published specimens
    unsigned({"sub": "1234567890", "name": "John Doe", "iat": 1516239022}),
    unsigned({"loggedInAs": "admin", "iat": 1422779638}),
    "gh" + f"o_{SPECIMEN}",
    "token: gh" + f"p_{SPECIMEN}",
    "Authorization: Bearer mF_9.B5f-4.1JqM",
    '"access_token":"2YotnFZFEjr1zCsicMWpAA", "refresh_token":"tGzv3JOkF0XG5Qx2TlKWIA"',
    "Authorization: Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW\n",
    "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\n",
    f"Authorization: Basic {b64('user:password')}\n",
    f"Authorization: Basic {b64('username:your-token-goes-here')}\n",
    "Authorization: Basic <base64>",
    "AWS_ACCESS_KEY_ID=AKIA" + "IOSFODNN7EXAMPLE\n",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY\n",
    "https://api.telegram.org/bot123456" + ":ABC-DEF1234ghIkl-zyx57W2v1u123ew11/getMe",
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6"
    "tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "JBSWY3DPEHPK3PXP",
    # prose
    "password: hunter2",
    "The password is required. Your password is at least 10 characters, with 1 digit!",
    "Note: the secret: Always-Test-Your-Backups!",
    "Set `password` to a long value; the token: a string, e.g. `abc123`.",
    "bearer tokens are sent as Authorization: Bearer header2Value",
    "* password=<password> * changeme * xxxx * example",
    "PASSWORD=xxxxxxxxxxxx\nTOKEN=REPLACE_ME_WITH_TOKEN_2025_FROM_PAGE\n",
    "TOKEN=***\nAPI_TOKEN=[MASKED]\nSECRET=<redacted>\n",
    "remote: Password authentication was removed. fatal: Authentication failed for 'https://x/'",
    "skip-or-v1-notes sk-or-v1-... gsk_xxx xai-your-key hvs.CAESI... dapi-token SG.xxx.yyy",
]


def found(text: str, *kinds: str) -> list[str]:
    return [k for k in kinds or secrets.SEARCHES if any(True for _ in secrets.find(text, [k]))]


@pytest.mark.parametrize("kind", KNOWN)
def test_a_key_is_known_by_its_form(kind: str) -> None:
    """These need no name beside them: whoever sees one can use it."""
    for sample in KNOWN[kind]:
        for text in (sample, f"see {sample} there", f"{{\"a\": '{sample}'}}", f"line\\n{sample}\n"):
            kinds = [k for k in found(text) if k != "named"]
            assert kinds, f"{kind}: {text[:20]}"


@pytest.mark.parametrize("text", LEAKS)
def test_what_leaks_on_an_ordinary_day_is_found(text: str) -> None:
    """Environment files, histories, manifests, source and logs: where people keep secrets."""
    for place in (text, f"$ cat x\n{text}", f"{text}\n", text.replace("\n", "\r\n")):
        assert found(place), place


@pytest.mark.parametrize("text", LEAKS)
def test_what_leaks_is_found_in_json_too(text: str) -> None:
    """Tools answer in JSON: the end of a line is a backslash and a letter there."""
    assert found(json.dumps({"stdout": f"ok\n{text}\n", "code": 0}))


@pytest.mark.parametrize("text", CLEAN)
def test_what_is_no_secret_passes(text: str) -> None:
    """Whoever is stopped over a lock file or a test fixture takes the guardrails off."""
    for place in (text, f"a\n{text}\n", f"{text} b", json.dumps({"stdout": f"{text}\n"})):
        assert not found(place), found(place)


@pytest.mark.parametrize("text", [*LEAKS, *(s for samples in KNOWN.values() for s in samples)])
def test_a_finding_stays_while_the_text_grows(text: str) -> None:
    """A reply is refused at the first hit: the whole of it must be a hit, too."""
    kinds = {
        end: {*found(text + end), *found(text)} for end in ("", ' "x', "=example\n", "}", "${X}")
    }
    for kind, search in secrets.SEARCHES.items():
        seen = [end for end in kinds if kind in kinds[end]]
        common = hits(search, text, 0) if seen else []
        for end in seen:
            grown = common + hits(search, text + end, len(text) + 1)
            assert grown == sorted(grown), (kind, end)


def hits(search: Callable[[str], Iterable[object]], text: str, begin: int) -> list[bool]:
    """Whether there is one in each of its beginnings, from this length on."""
    return [any(True for _ in search(text[:cut])) for cut in range(begin, len(text) + 1)]


@pytest.mark.parametrize("text", CLEAN)
def test_what_is_clean_is_clean_at_every_cut(text: str) -> None:
    """Otherwise a streamed reply would be refused halfway through something harmless."""
    short = text[:400]
    assert not [c for c in range(0, len(short), 3) if found(short[:c])]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", STRONG),
        ("dbPassword", ZEBRA),
        ("token", R40),
        ("API_TOKEN", H40),
        ("Authorization", f"Bearer {R40}"),
        ("authorization", f"Basic {b64('ada:' + STRONG)}"),
        ("db_pass", STRONG),
        ("client_secret", R32),
    ],
)
def test_an_argument_is_judged_by_its_name(name: str, value: str) -> None:
    """The arguments of a tool call are names and values, already apart."""
    assert secrets.is_named_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "A long sentence, With 3 Things!"),
        ("password", BCRYPT),
        ("api_key", SHOP_UUID),
        ("token", "$TOKEN"),
        ("next_token", R40),
        ("csrf_token", R40),
        ("max_tokens", "4096"),
        ("secret", "prod-db-7f9c4d8b6-x2k4q"),
        ("compass", STRONG),
        ("query", R40),
        ("Authorization", "Bearer ${TOKEN}"),
        ("apiKey", FIREBASE),
    ],
)
def test_an_argument_that_is_no_secret_passes(name: str, value: str) -> None:
    """A page's cursor is a token as well."""
    assert not secrets.is_named_secret(name, value)


LOGINS = [
    "https://ada:Ab3xy9z@git.example/x",
    "postgres://app:s3cr3t-db@10.0.0.3/app",
    "redis://:Ab3xy9z@cache:6379",
    "https://ada:p%40ss9word@git.example",
    "ftp://ada:Zebra!9@ftp.acme.dev",
    "https://user:tok_Ab3xy9z@api.acme.dev/v1",
]
NO_LOGINS = [
    "https://user:password@host/",
    "https://user:pass@host/",
    "postgres://postgres:postgres@localhost/app",
    "amqp://guest:guest@mq",
    "mongodb://root:example@mongo",
    "https://<user>:<password>@host",
    "https://$USER:$PASS@host",
    "https://{user}:{password}@host",
    "https://user:***@host",
    "https://user:xxxxxx@host",
    "https://user:[REDACTED]@host",
    "https://user:YOUR_TOKEN@github.com/x",
    "http://localhost:3000/@fs/x",
    "https://medium.com:443/@ada/x",
    "http://a:8080/x@2.0",
    "git+ssh://git@github.com:ada/x.git",
    "https://user:changeme@host",
]


@pytest.mark.parametrize("text", LOGINS)
def test_an_address_with_a_password_is_reported(text: str) -> None:
    """The rule in log/ names those too whose password is too plain to be stopped for."""
    assert list(texts.logins(f"see {text} ok"))


@pytest.mark.parametrize("text", NO_LOGINS)
def test_an_address_with_a_stand_in_is_not_reported(text: str) -> None:
    """A log that is full of localhost defaults is not read."""
    assert not list(texts.logins(f"see {text} ok"))
    assert not found(f"see {text} ok")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *CLEAN,
                *LEAKS,
                "password",
                "token",
                "--",
                "=",
                ": ",
                '"',
                "'",
                "\\",
                "\n",
                " -p",
                "://",
            ]
        )
        | st.text(max_size=8),
        max_size=8,
    ).map("".join)
)
def test_no_text_is_too_odd(text: str) -> None:
    """A detector that fails is a request that is stopped for nothing."""
    for kind in secrets.SEARCHES:
        for start, end in secrets.find(text, [kind]):
            assert 0 <= start < end <= len(text)
    secrets.is_named_secret("password", text)
    secrets.is_named_secret(text, text)
    list(texts.logins(text))


@pytest.mark.parametrize("name", ["text", "code", "log"])
def test_ordinary_text_is_read_fast(name: str) -> None:
    """Every message of a long conversation is read anew with each request."""
    unit = {
        "text": "The secret of a good password: make it long. Her token, she said, was a ring. ",
        "code": "def f(token: str, password=password) -> None: api_key = os.environ['KEY2']\n",
        "log": f"2025-03-01 INFO request_id={SHOP_UUID} token=*** auth=Bearer path=/v1/{H32}\n",
    }[name]
    assert work(unit * (1_000_000 // len(unit))) < 5


@pytest.mark.parametrize(
    "piece",
    [
        "mysql -p", "curl -u a:", "--password ", "--", "--a-", "token=", "TOKEN=a1", " -p",
        "-u a:b ", 'password", "', "password\n value: ", "authorization: basic QWxh", 'auth":"',
        "login a password ", ":5432:a:b:", "://:", "://a:b@", "AccountKey=", "8Q~", ".atlasv1.",
        "EAAA", "key-", "mailgun", "SG.", "1:AA", "123456789:AA", "SK0a", "Private-Lines: 1\n",
        'apiKey: "AIza', "firebase", "password=A1b!", "password: $2b$", "secret_",
        "eyJhbGciOiJIUzI1NiJ9.eyJh.", "password is ", "PASSWORD=a1B2c3D4e5F6!", "password=${",
        "token='a1B2a1B2a1B2a1B2a1B2", "X-Amz-Credential=AKIA", "aaaaaaa=",
    ],
)  # fmt: skip
def test_many_beginnings_are_read_in_linear_time(piece: str) -> None:
    """What almost begins a secret, ten thousands of times, must not stop the proxy. (A quadratic
    search would take ten seconds.)"""
    assert work(piece * (100_000 // len(piece))) < 2


def work(text: str) -> float:
    """Seconds of it, not of waiting, because the machine is shared."""
    start = time.thread_time()
    for kind in secrets.SEARCHES:
        for _ in secrets.find(text, [kind]):
            pass
    return time.thread_time() - start


def test_every_kind_is_in_a_rule() -> None:
    """A form that no rule asks for guards nothing."""
    asked = "".join((STARTER / "block" / f"{n}.inv").read_text() for n in ("api_keys", "passwords"))
    listed = "".join(re.findall(r"\[[^\]]+\]", asked))
    assert set(secrets.SEARCHES) == set(re.findall(r'"([a-z_]+)"', listed))


def test_no_key_of_these_tables_stands_in_this_file() -> None:
    """No scanner should stumble over this repository."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert not found(text, *(set(secrets.SEARCHES) - {"named"}))
    assert string.ascii_letters in ALNUM
