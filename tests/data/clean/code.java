@Value("${app.api-key}") private String apiKey;
private final String password = System.getenv("DB_PASSWORD");
String accessToken = oauth2AuthorizedClient.getAccessToken().getTokenValue();
public static final String SECRET_KEY = "app.security.secret-key";
KeyStore.PasswordProtection pw = new KeyStore.PasswordProtection(password.toCharArray());
