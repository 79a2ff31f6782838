import { createClient } from "@supabase/supabase-js";
const apiKey = process.env.NEXT_PUBLIC_API_KEY!;
const password = formData.get("password") as string;
export interface Credentials { apiKey: string; secretKey?: string; accessToken: string | null; password: string }
const { accessToken, refreshToken } = await getAccessTokenSilently({ audience: AUTH0_AUDIENCE_2 });
const clientSecret = paymentIntent.client_secret as ClientSecretFromStripeV3;
axios.defaults.headers.common["Authorization"] = `Bearer ${accessToken}`;
const secret = useSecretFromContext2(), authToken = cookies.get("auth_token_v2_session")?.value;
test("password", () => { expect(validate({ password: "Test1234!" })).toBe(true); });
type Props = { token: (value: string) => void; password: z.infer<typeof passwordSchemaV2> };
