"""Spellings of addresses that must not be called, and URLs that parsers read differently, from many public lists."""

from __future__ import annotations

# Hosts. Names are resolved by the test: `*.public.example` to a public address, all others inside.
HOSTS = (
    # loopback, in the notations that C libraries and browsers take for an IPv4 address
    *("127.0.0.1", "127.0.0.2", "127.127.127.127", "127.255.255.254", "127.1", "127.0.1", "127.65535", "127.16777215"),
    *("2130706433", "017700000001", "0x7f000001", "0X7F000001", "0x7F.1", "0x7f.0.1", "0x7f.0x0.0x0.0x1"),
    *("0177.1", "0177.0.1", "0177.0.0.1", "0177.0.0.01", "00000177.0.0.1", "0x7f.0.0.01", "0177.0x0.0.1", "127.0x1"),
    *("127.0.0.01", "127.000.000.001", "127.0.0.0x1", "0x07f.1", "6425673729", "0x17f000001", "383.256.256.257"),
    *("127.0.0.1.", "127.1.", "2130706433.", "127.0.0.1..", ".127.0.0.1", "127..0.0.1", "127.0.0.1.%00", "127.0.0.1%20"),
    *("%31%32%37%2e%30%2e%30%2e%31", "127%2E0%2E0%2E1", "127.0.0.1%2f", "127.0.0.1%09", "127.0.0.1%0d%0a"),
    # this host, and reserved addresses
    *("0", "0.0.0.0", "0.0", "0.0.0", "00", "0x0", "0x00000000", "0.0.0.0.", "0.1.2.3", "255.255.255.255", "4294967295"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.88.99.1"),
    # private networks
    *("10.0.0.1", "10.1", "167772161", "0xa000001", "012.0.0.1", "0xa.0.0.1", "172.16.0.1", "172.31.255.254", "0xac100001"),
    *("192.168.0.1", "192.168.1", "192.168.257", "3232235521", "0xc0a80001", "0300.0250.0.1", "100.64.0.1", "169.254.1.1"),
    # metadata services of clouds
    *("169.254.169.254", "169.254.43518", "169.16689662", "2852039166", "025177524776", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE"),
    *("0251.0376.0251.0376", "0251.254.0xa9.254", "0xa9.254.43518", "425.510.425.510", "7147006462", "169.254.169.254."),
    *("169.254.170.2", "169.254.170.23", "169.254.169.253", "169.254.169.123", "100.100.100.200", "0x646464c8"),
    *("1684301000", "192.0.0.192", "3221225664", "168.63.129.16", "2822734096", "0xa83f8110", "192.0.0.170", "169.254.0.23"),
    *("[fd00:ec2::254]", "[fd00:ec2::23]", "[fd00:0ec2:0000::0254]", "[fd20:ce::254]", "[fe80::a9fe:a9fe]"),
    # IPv6, and IPv4 within it
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::0001]", "[::]", "[0::0]", "[::0.0.0.1]", "[::127.0.0.1]", "[::7f00:1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::FFFF:7F00:0001]", "[::ffff:0:127.0.0.1]"),
    *("[::ffff:0:7f00:1]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[::169.254.169.254]", "[::ffff:10.0.0.1]"),
    *("[::ffff:0.0.0.0]", "[::ffff:168.63.129.16]", "[::ffff:100.100.100.200]", "[::ffff:192.0.0.192]", "[::ffff:0x7f.1]"),
    *("[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::10.0.0.1]", "[64:ff9b:1::a9fe:a9fe]"),
    *("[2002:7f00:1::]", "[2002:a9fe:a9fe::]", "[2002:a00:1::1]", "[2001:0:7f00:1::]", "[2001::80ff:fffe]", "[2001:0:0:1::1]"),
    *("[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[2001:db8::1]", "[2001:10::1]", "[2001:20::1]", "[3fff::1]", "[100::1]"),
    *("[fe80::1]", "[fe80::1%25lo]", "[fe80::1%lo]", "[fe80::1%251]", "[::1%25lo]", "[::1%251]", "[fec0::1]", "[fc00::1]"),
    *("[fd12:3456:789a::1]", "[ff02::1]", "[ff0e::1]", "[fe80::5efe:127.0.0.1]", "[::1.]", "[127.0.0.1]", "[localhost]"),
    *("[::8.8.8.8]", "[64:ff9b::8.8.8.8]", "[64:ff9b:1::1]", "[2002:808:808::1]", "[2001::1]", "[5f00::1]", "192.0.0.1"),
    *("[v1.::1]", "[::1]a", "::1", "::ffff:127.0.0.1", "[::1", "[[::1]]", "[0x7f000001]"),
    # names
    *("localhost", "LOCALHOST", "localhost.", "localhost..", "LocalHost.localdomain", "localhost6", "ip6-localhost"),
    *("%6c%6f%63alhost", "localhost%00", "localhost%2e", "metadata", "metadata.google.internal", "metadata.google.internal."),
    *("instance-data", "kubernetes.default.svc", "host.docker.internal", "gateway.docker.internal", "router.lan", "a.local"),
    *("127.0.0.1.nip.io", "127-0-0-1.sslip.io", "7f000001.nip.io", "169.254.169.254.xip.io", "10.0.0.1.sslip.io"),
    *("localtest.me", "lvh.me", "vcap.me", "spoofed.burpcollaborator.net", "1.1.1.1.127.0.0.1.nip.io", "0.nip.io"),
    *("127.0.0.1.public.example.evil.example", "xn--lcalhost-n4a", "a_b.example", "-a.example", "a" * 63 + ".example"),
    # other characters for the same letters, digits and dots
    *("①②⑦.⓪.⓪.①", "①②⑦。⓪。⓪。①", "１２７.０.０.１", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "𝟭𝟮𝟳.𝟬.𝟬.𝟭"),
    *("⑯⑨。②⑤④。⑯⑨｡②⑤④", "⓪ⓧ⑦ⓕ000001", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "ｌｏｃａｌｈｏｓｔ", "ˡᵒᶜᵃˡʰᵒˢᵗ", "locaⅼhost", "loc\u00adalhost"),
    *("loc\u200balhost", "localhost\u3002", "ⓔxample.internal", "١٢٧.٠.٠.١", "127.0.0.¹", "⑴27.0.0.1", "𝕃ocalhost", "K8s"),
    # user names that look like hosts
    *("user@127.0.0.1", "user:password@127.0.0.1", "www.public.example@127.0.0.1", "www.public.example:80@127.0.0.1"),
    *("www.public.example%40127.0.0.1", "127.0.0.1@127.0.0.1", "a@b@127.0.0.1", "a:b@c:d@127.0.0.1", "@127.0.0.1", ":@127.0.0.1"),
    *("www.public.example%2f@127.0.0.1", "www.public.example%23@127.0.0.1", "www.public.example%00@127.0.0.1", "@@127.0.0.1"),
    *("www.public.example;@127.0.0.1", "www.public.example&@127.0.0.1", "[::1]@127.0.0.1", "user@localhost", "＠127.0.0.1"),
)  # fmt: skip

# Whole URLs; `{}` is the port of a listening server.
URLS = (
    # parsers disagree about the host
    *(r"http://127.0.0.1:{}\@www.public.example/", r"http://www.public.example\@127.0.0.1:{}/", r"http:\\127.0.0.1:{}\x"),
    *(r"http:/\127.0.0.1:{}/", r"http:\/\/127.0.0.1:{}/", r"http://127.0.0.1\.public.example:{}/", r"\\127.0.0.1:{}\x"),
    *("http://www.public.example#@127.0.0.1:{}/", "http://www.public.example?@127.0.0.1:{}/", "http://127.0.0.1:{}#@www.public.example/"),
    *("http://127.0.0.1:{}?@www.public.example/", "http://www.public.example#\\@127.0.0.1:{}/", "http://a@127.0.0.1:{}@www.public.example/"),
    *("http://127.1.1.1:{}\\@127.2.2.2:{}/", "http://127.1.1.1:{}\\@@127.2.2.2:{}/", "http://127.1.1.1:{}:\\@@127.2.2.2:{}/"),
    *("http://www.public.example:80@127.0.0.1:{}@www.public.example/", "http://127.0.0.1:{};www.public.example/"),
    *("http://127.0.0.1 :{}/", "http://127.0.0.1\t:{}/", "http://127.0.0.1\n:{}/", "http://12\t7.0.0.1:{}/", "http://12\n7.0.0.1:{}/"),
    *("http://www.public.example\t@127.0.0.1:{}/", "http://www.public.example\n@127.0.0.1:{}/", "http://127.0.0.1\r\n:{}/"),
    *("ht\ttp://127.0.0.1:{}/", "ht\ntp://127.0.0.1:{}/", " http://127.0.0.1:{}/", "\thttp://127.0.0.1:{}/", "\0http://127.0.0.1:{}/"),
    *("http://\t127.0.0.1:{}/", "http:// 127.0.0.1:{}/", "http://\x00127.0.0.1:{}/", "http://127.0.0.1\x00.public.example:{}/"),
    *("http://127.0.0.1:{}/ http://www.public.example/", "http://127.0.0.1:{}/\r\nHost: www.public.example", "http://www.public.example,127.0.0.1:{}/"),
    *("http:127.0.0.1:{}", "http:/127.0.0.1:{}/", "http:///127.0.0.1:{}/", "http:////127.0.0.1:{}/", "//127.0.0.1:{}/", "///127.0.0.1:{}/"),
    *("https:127.0.0.1:{}/", "https:/127.0.0.1:{}/", "https:///127.0.0.1:{}/", "127.0.0.1:{}/", "localhost:{}/", "HTTP://LOCALHOST:{}/"),
    *("http://127.0.0.1:0{}/", "http://127.0.0.1:+{}/", "http://127.0.0.1:{}%20/", "http://127.0.0.1:", "http://127.0.0.1:%31{}/"),
    *("http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "http://[::1]:{}:80/", "http://①27.0.0.1:{}/", "http://127.0.0.1:８０/"),
    # other schemes, or none
    *("", " ", "/etc/passwd", "www.public.example/x", "http://", "http:///x", "http://:80/", "http://user@/x", "HTTPX://127.0.0.1:{}/"),
    *("file:///etc/passwd", "file://127.0.0.1/etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "file:etc/passwd", "file://\\etc"),
    *("gopher://127.0.0.1:{}/_GET%20/", "dict://127.0.0.1:{}/stat", "ftp://127.0.0.1:{}/x", "ftps://127.0.0.1:{}/", "sftp://127.0.0.1:{}/"),
    *("tftp://127.0.0.1:{}/x", "ldap://127.0.0.1:{}/", "ldaps://127.0.0.1:{}/", "ldapi://%2Ftmp%2Fx/", "smb://127.0.0.1:{}/x", "rtsp://127.0.0.1:{}/"),
    *("rtmp://127.0.0.1:{}/", "ws://127.0.0.1:{}/", "wss://127.0.0.1:{}/", "imap://127.0.0.1:{}/", "smtp://127.0.0.1:{}/", "telnet://127.0.0.1:{}"),
    *("ssh://127.0.0.1:{}/", "git://127.0.0.1:{}/", "redis://127.0.0.1:{}/", "jar:http://127.0.0.1:{}/x!/", "netdoc:///etc/passwd", "unix:/run/x.sock"),
    *("http+unix://%2Frun%2Fx.sock/", "unix:///run/x.sock:http://x/", "php://filter/resource=http://127.0.0.1:{}/", "phar:///x", "expect://id"),
    *("data:text/plain,x", "javascript:alert(1)", "blob:http://127.0.0.1:{}/x", "view-source:http://127.0.0.1:{}/", "url:http://127.0.0.1:{}/"),
    *("URL:file:///etc/passwd", "about:blank", "concat:/etc/passwd", "subfile,,start,0,end,9,,:/etc/passwd", "pipe:0", "hls+http://127.0.0.1:{}/"),
    *("tcp://127.0.0.1:{}", "udp://127.0.0.1:{}", "async:http://127.0.0.1:{}/", "cache:http://127.0.0.1:{}/", "http,https://127.0.0.1:{}/", "h2c://127.0.0.1:{}/"),
)  # fmt: skip
